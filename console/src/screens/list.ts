/** The screens, in the order of the navigation. */

export const SCREENS = [
  { path: "/now", name: "Now" },
  { path: "/executions", name: "Executions" },
  { path: "/flows", name: "Flows" },
  { path: "/lanes", name: "Lanes" },
  { path: "/workers", name: "Workers" },
  { path: "/schedules", name: "Schedules" },
  { path: "/waits", name: "Waits" },
  { path: "/limits", name: "Limits" },
  { path: "/failures", name: "Failures" },
  { path: "/dead", name: "Dead letters" },
  { path: "/mirror", name: "Mirror rules" },
  { path: "/audit", name: "Audit" },
] as const;
