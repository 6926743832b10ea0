import { RouterProvider, createRootRoute, createRoute, createRouter, redirect } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { begin } from "./bus/link";
import { Shell } from "./ui/Shell";
import { beginTheme } from "./ui/theme";
import "./style.css";
import { Audit, type AuditFilters } from "./screens/Audit";
import { DeadLetters } from "./screens/DeadLetters";
import { Execution } from "./screens/Execution";
import { Executions } from "./screens/Executions";
import { Flow } from "./screens/Flow";
import { Failures } from "./screens/Failures";
import { FLOW_STATUSES, Flows } from "./screens/Flows";
import { readFilters } from "./screens/filters";
import { Lanes } from "./screens/Lanes";
import { Limits } from "./screens/Limits";
import { MirrorRules } from "./screens/MirrorRules";
import { Now } from "./screens/Now";
import { SCHEDULE_STATUSES, Schedules } from "./screens/Schedules";
import { WAIT_STATUSES, Waits } from "./screens/Waits";
import { WORKER_STATUSES, Workers } from "./screens/Workers";
import { Missing } from "./ui/Shell";

const root = createRootRoute({ component: Shell, notFoundComponent: Missing });
const parent = (): typeof root => root;

const one = <T extends string>(of: readonly T[], value: unknown): T | undefined => of.find((each) => each === value);

/** The one of a list that is shown below it. */
const naming =
  <N extends string>(name: N) =>
  (s: Record<string, unknown>): { [name in N]?: string } =>
    (s[name] ? { [name]: String(s[name]) } : {}) as { [name in N]?: string };

/** The status by which a list is filtered. */
const filtered =
  <S extends string>(of: readonly S[]) =>
  (s: Record<string, unknown>): { status?: S } => {
    const status = one(of, s["status"]);
    return status ? { status } : {};
  };

const routes = [
  createRoute({
    getParentRoute: parent,
    path: "/",
    beforeLoad: () => {
      throw redirect({ to: "/executions", search: {} });
    },
  }),
  createRoute({ getParentRoute: parent, path: "/now", component: Now }),
  createRoute({ getParentRoute: parent, path: "/executions", component: Executions, validateSearch: readFilters }),
  createRoute({ getParentRoute: parent, path: "/executions/$id", component: Execution }),
  createRoute({ getParentRoute: parent, path: "/flows", component: Flows, validateSearch: filtered(FLOW_STATUSES) }),
  createRoute({ getParentRoute: parent, path: "/flows/$id", component: Flow }),
  createRoute({ getParentRoute: parent, path: "/lanes", component: Lanes, validateSearch: naming("text") }),
  createRoute({ getParentRoute: parent, path: "/workers", component: Workers, validateSearch: (s) => ({ ...naming("worker")(s), ...naming("text")(s), ...filtered(WORKER_STATUSES)(s) }) }),
  createRoute({ getParentRoute: parent, path: "/schedules", component: Schedules, validateSearch: (s) => ({ ...naming("schedule")(s), ...filtered(SCHEDULE_STATUSES)(s) }) }),
  createRoute({ getParentRoute: parent, path: "/waits", component: Waits, validateSearch: (s) => ({ ...naming("namespace")(s), ...filtered(WAIT_STATUSES)(s) }) }),
  createRoute({ getParentRoute: parent, path: "/failures", component: Failures }),
  createRoute({ getParentRoute: parent, path: "/limits", component: Limits }),
  createRoute({ getParentRoute: parent, path: "/dead", component: DeadLetters, validateSearch: naming("letter") }),
  createRoute({ getParentRoute: parent, path: "/mirror", component: MirrorRules }),
  createRoute({
    getParentRoute: parent,
    path: "/audit",
    component: Audit,
    validateSearch: (s: Record<string, unknown>): AuditFilters =>
      Object.fromEntries(["entity", "event", "actor", "text"].flatMap((name) => (s[name] ? [[name, String(s[name])]] : []))),
  }),
] as const;

const router = createRouter({ routeTree: root.addChildren(routes), defaultPreload: false });

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}

beginTheme();
void begin();
const host = document.getElementById("root");
if (host) {
  createRoot(host).render(
    <StrictMode>
      <RouterProvider router={router} />
    </StrictMode>,
  );
}
