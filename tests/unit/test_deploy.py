"""Each file of deploy/ by the rules of the tool that reads it, and every name in it against what there is.

Tools that are no Python packages (kubectl, promtool, systemd-analyze) are used where the machine has them.
"""

import asyncio
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml

from deploy_files import (
    DEPLOY,
    GATEWAY,
    OPERATIONS,
    REPOSITORY,
    SERVICES,
    alerts,
    dashboard,
    documents,
    expressions,
    selectors,
)
from penstock.local.servers import find_nats
from penstock.metrics_port import MetricsPort
from penstock.runtime.settings import FIELDS, Settings
from penstock_gateway.settings import Settings as GatewaySettings
from penstock_gateway.settings import variable
from penstock_gateway.tokens import OTHERS

BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
KNOWN_SETTINGS = frozenset(field.variable for field in FIELDS)
GATEWAY_SETTINGS = frozenset(map(variable, GatewaySettings.__struct_fields__))
PROCESSES = SERVICES | {GATEWAY}


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}, cwd=cwd
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine")
    return found


def are_settings(environment: dict[str, Any], process: str = "a service") -> None:
    """Assert that all variables are settings, with values that the process takes."""
    known, settings = (
        (GATEWAY_SETTINGS, GatewaySettings) if process == GATEWAY else (KNOWN_SETTINGS, Settings)
    )
    ours = {name: str(value) for name, value in environment.items() if name.startswith("PENSTOCK_")}
    assert ours.keys() <= known, ours.keys() - known
    settings.from_env(ours)


# -- the image


class TestImage:
    text = (DEPLOY / "Dockerfile").read_text()

    def test_the_linter_has_nothing_to_say(self) -> None:
        run(BIN / "hadolint", DEPLOY / "Dockerfile")

    def test_what_it_copies_is_there_and_reaches_the_build(self) -> None:
        ignored = [
            line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] != "#"
        ]
        assert ignored[0] == "*"  # nothing reaches the build but what is named
        let_in = {line[1:] for line in ignored if line.startswith("!")}
        sources = re.findall(r"^COPY (?!--from)(.+) \S+$", self.text, re.MULTILINE)
        copied = {source for line in sources for source in line.split()}
        assert copied == let_in
        assert all((REPOSITORY / source).exists() for source in copied)
        assert not any(fnmatch.fnmatch(source, ".env*") for source in copied)

    def test_the_build_has_all_that_the_wheel_is_made_of(self) -> None:
        wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
        needed = {*wheel["packages"], *wheel["force-include"], PROJECT["project"]["readme"], "pyproject.toml"}
        copied = " ".join(re.findall(r"^COPY (.+)$", self.text, re.MULTILINE)).split()
        assert {name.split("/")[0] for name in needed} <= set(copied)
        extras = set(re.search(r"penstock\[([\w,]+)\]", self.text)[1].split(","))
        assert extras == {"cli", "services", "console", "gateway"}
        assert extras <= PROJECT["project"]["optional-dependencies"].keys()

    def test_only_the_base_image_comes_from_a_registry_and_it_is_not_root(self) -> None:
        assert set(re.findall(r"^FROM (\S+)", self.text, re.MULTILINE)) == {"${PYTHON}"}
        assert re.search(r"^ARG PYTHON=python:[\w.-]+$", self.text, re.MULTILINE)
        assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", self.text, re.MULTILINE)
        are_settings(dict(re.findall(r"(PENSTOCK_\w+)=(\S+)", re.sub("^#.*", "", self.text, flags=re.M))))

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        """PATH with one program for each script of the wheel. Each says its name, its arguments and its pid."""
        for name in PROJECT["project"]["scripts"]:
            (tmp_path / name).write_text('#!/bin/sh\necho "${0##*/} $* $$"\n')
            (tmp_path / name).chmod(0o755)
        return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            *(([process, "--help"], f"penstock-{process} --help") for process in sorted(PROCESSES)),
            (["gateway", "token", "ada", "viewer"], "penstock-gateway token ada viewer"),
            (["doctor", "--json"], "penstock doctor --json"),
            (["--help"], "penstock --help"),
            ([], "penstock"),
        ],
    )
    def test_its_first_argument_is_a_service_or_else_a_command(
        self, path: str, arguments: list[str], expected: str
    ) -> None:
        entrypoint = DEPLOY / "entrypoint.sh"
        with subprocess.Popen(
            [entrypoint, *arguments], env={"PATH": path}, stdout=subprocess.PIPE, text=True
        ) as process:
            said, _ = process.communicate(timeout=60)
        # The same pid: a container's SIGTERM reaches the service itself.
        assert said.split() == [*expected.split(), str(process.pid)]

    @pytest.mark.parametrize(
        ("first", "listens", "healthy"),
        [
            ("penstock-scheduler", True, True),
            ("penstock-gateway", False, False),
            ("penstock console --port 8080", True, True),
            ("penstock console --port 8080", False, False),
            ("penstock top", False, True),
        ],
    )
    def test_its_health_is_that_of_what_it_runs(
        self, tmp_path: Path, first: str, listens: bool, healthy: bool
    ) -> None:
        """As in a container: the command is process 1. Only what has a metrics port is asked there."""
        alone = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
        if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode != 0:
            pytest.skip("this machine lets nobody make a process namespace")
        program = tmp_path / first.split()[0]
        program.write_text('#!/bin/sh\n"$ENTRYPOINT" healthy\nexit $?\n')
        program.chmod(0o755)
        port = MetricsPort(lambda: b"", lambda: ())

        async def asked() -> int:
            await port.start("127.0.0.1", 0)
            number = port.url.split(":")[2].removesuffix("/metrics")
            if not listens:
                await port.stop()
            process = await asyncio.create_subprocess_exec(
                *alone, program, *first.split()[1:],
                env={
                    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
                    "ENTRYPOINT": str(DEPLOY / "entrypoint.sh"),
                    "PENSTOCK_METRICS_PORT": number,
                },
                stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            code = await asyncio.wait_for(process.wait(), 60)
            if listens:
                await port.stop()
            return code

        assert (asyncio.run(asked()) == 0) == healthy
        assert 'CMD ["penstock-entrypoint", "healthy"]' in self.text


# -- compose


class TestCompose:
    (spec,) = documents("compose.yaml")
    penstock = {name: each for name, each in spec["services"].items() if each["image"] == "penstock"}

    def test_it_is_a_compose_file(self) -> None:
        merged = yaml.safe_dump(self.spec)  # with YAML's merge keys carried out
        compose_spec.PyCompose.from_yaml(merged).to_spec()

    def test_the_six_services_and_the_gateway_run_as_themselves(self) -> None:
        assert self.penstock.keys() == PROCESSES
        for name, service in self.penstock.items():
            assert service["command"] == [name]
            build = service["build"]
            assert (DEPLOY / build["context"]).resolve() == REPOSITORY
            assert (REPOSITORY / build["dockerfile"]).is_file()

    def test_settings_exist_and_secrets_come_from_the_env_file(self) -> None:
        example = dict(
            line.split("=", 1)
            for line in (DEPLOY / ".env.example").read_text().splitlines()
            if "=" in line and line[0] != "#"
        )
        text = (DEPLOY / "compose.yaml").read_text()
        assert set(re.findall(r"(?<!\$)\$\{(\w+)", text)) == example.keys()
        filled = {**example, "VALKEY_PASSWORD": "p" * 32, "PENSTOCK_TOKEN_KEY": "k" * 32}
        for name, service in self.penstock.items():
            environment = {
                name: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: filled[found[1]], str(value))
                for name, value in service["environment"].items()
            }
            are_settings(environment, name)
        needs_key = {
            name for name, each in self.penstock.items() if "PENSTOCK_TOKEN_KEY" in each["environment"]
        }
        assert needs_key == {"signal-router"}

    def test_what_it_mounts_is_there(self) -> None:
        for service in self.spec["services"].values():
            for volume in service.get("volumes", ()):
                source = volume.split(":")[0]
                assert (DEPLOY / source).exists() if source[0] == "." else source in self.spec["volumes"]

    def test_all_come_back_and_tell_how_they_are(self) -> None:
        for name, service in self.spec["services"].items():
            assert service["restart"] == "unless-stopped"
            assert "healthcheck" in service or name in PROCESSES, f"{name}: only the image has one of its own"

    def test_valkey_is_reached_by_services_only_and_nothing_from_outside(self) -> None:
        on_state = {name for name, each in self.spec["services"].items() if "state" in each["networks"]}
        assert on_state == SERVICES | {"valkey"} and self.spec["networks"]["state"]["internal"]
        for service in self.spec["services"].values():
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))

    def test_the_gateway_is_optional_and_keeps_its_tokens(self) -> None:
        assert {name for name, each in self.spec["services"].items() if "profiles" in each} == {GATEWAY}
        gateway = self.penstock[GATEWAY]
        assert gateway["ports"] == [f"127.0.0.1:{GatewaySettings().port}:{GatewaySettings().port}"]
        ((volume, folder),) = [each.split(":") for each in gateway["volumes"]]
        assert volume in self.spec["volumes"]
        assert Path(gateway["environment"]["PENSTOCK_GATEWAY_TOKENS"]).parent == Path(folder)
        # A new volume gets the owner of the folder in the image, so that the gateway may write the file.
        user = re.search(r"^USER (\d+):(\d+)$", TestImage.text, re.MULTILINE)
        made = f"--owner={user[1]} --group={user[2]} --mode=0700 {folder}\n"
        assert f"RUN install --directory {made}" in TestImage.text

    def test_prometheus_scrapes_every_process_on_the_port_of_the_image(self) -> None:
        (config,) = documents("prometheus/prometheus.yaml")
        ((names, port),) = [
            (discovery["names"], discovery["port"])
            for scrape in config["scrape_configs"]
            for discovery in scrape["dns_sd_configs"]
        ]
        assert set(names) == PROCESSES and f"PENSTOCK_METRICS_PORT={port} " in TestImage.text


# -- Kubernetes


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Build the base with all components, as a user's kustomization would."""
    kubectl = tool("kubectl")
    folder = tmp_path_factory.mktemp("overlay")
    kubernetes = DEPLOY / "kubernetes"
    components = sorted(str(path.parent) for path in kubernetes.glob("components/*/kustomization.yaml"))

    def relative(path: str | Path) -> str:
        return os.path.relpath(path, folder)

    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "resources": [relative(kubernetes / "base")],
                "components": [relative(each) for each in components],
                "images": [{"name": "penstock", "newName": "elsewhere/penstock", "newTag": "0.1.0"}],
            }
        )
    )
    return list(yaml.safe_load_all(run(kubectl, "kustomize", folder)))


def kind(resources: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [each for each in resources if each["kind"] == name]


class TestKubernetes:
    def test_every_resource_fits_its_schema(self, resources: list[dict[str, Any]]) -> None:
        for resource in resources:
            if resource["apiVersion"].split("/")[0] != "keda.sh":  # a custom resource: its schema is KEDA's
                kubernetes_validate.validate(resource, "1.33", strict=True)

    def test_there_is_one_deployment_a_process_with_settings_that_exist(
        self, resources: list[dict[str, Any]]
    ) -> None:
        (config,) = kind(resources, "ConfigMap")
        are_settings(config["data"])
        deployments = kind(resources, "Deployment")
        assert {
            each["metadata"]["labels"]["app.kubernetes.io/component"] for each in deployments
        } == PROCESSES
        for deployment in deployments:
            service = deployment["metadata"]["labels"]["app.kubernetes.io/component"]
            pod = deployment["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            assert container["args"] == [service]
            assert container["image"] == "elsewhere/penstock:0.1.0"
            assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
            variables = {each["name"] for each in container["env"]}
            assert variables <= (GATEWAY_SETTINGS if service == GATEWAY else KNOWN_SETTINGS)
            assert ("PENSTOCK_VALKEY_URL" in variables) == (service != GATEWAY)
            assert "PENSTOCK_NATS_CREDS" in variables
            assert ("PENSTOCK_TOKEN_KEY" in variables) == (service == "signal-router")
            port, *others = container["ports"]
            http = GatewaySettings().port
            assert others == ([{"name": "http", "containerPort": http}] if service == GATEWAY else [])
            assert f"PENSTOCK_METRICS_PORT={port['containerPort']} " in TestImage.text
            probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("readiness", "liveness")}
            assert {name: probe["path"] for name, probe in probes.items()} == {
                "readiness": "/readyz",
                "liveness": "/healthz",
            }
            assert {probe["port"] for probe in probes.values()} == {port["name"]}
            assert pod["terminationGracePeriodSeconds"] * 1000 > Settings().drain_timeout_ms
            user = re.search(r"^USER (\d+)", TestImage.text, re.MULTILINE)[1]
            assert pod["securityContext"]["runAsUser"] == int(user)

    def test_each_deployment_has_a_budget_that_lets_one_pod_go(self, resources: list[dict[str, Any]]) -> None:
        selected = [each["spec"]["selector"]["matchLabels"] for each in kind(resources, "Deployment")]
        budgets = kind(resources, "PodDisruptionBudget")
        assert all(each["spec"]["maxUnavailable"] == 1 for each in budgets)
        protected = [each["spec"]["selector"]["matchLabels"] for each in budgets]
        assert sorted(map(str, protected)) == sorted(map(str, selected))

    def test_the_network_policy_is_about_these_pods(self, resources: list[dict[str, Any]]) -> None:
        ours = next(
            each for each in kind(resources, "NetworkPolicy") if each["metadata"]["name"] == "penstock"
        )
        wanted = ours["spec"]["podSelector"]["matchLabels"].items()
        for deployment in kind(resources, "Deployment"):
            assert wanted <= deployment["spec"]["template"]["metadata"]["labels"].items()

    def test_the_gateway_is_reached_over_http_and_does_not_reach_valkey(
        self, resources: list[dict[str, Any]]
    ) -> None:
        (deployment,) = [
            each for each in kind(resources, "Deployment") if each["metadata"]["name"] == "penstock-gateway"
        ]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        (service,) = kind(resources, "Service")
        assert service["spec"]["selector"] == labels
        policies = {each["metadata"]["name"]: each["spec"] for each in kind(resources, "NetworkPolicy")}
        opened = policies["penstock-gateway"]
        assert opened["podSelector"]["matchLabels"] == labels
        assert opened["ingress"] == [{"ports": [{"port": "http"}]}]
        (rule,) = policies["penstock-valkey"]["ingress"]
        penstock = rule["from"][0]["podSelector"]
        assert penstock["matchExpressions"] == [
            {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": [GATEWAY]}
        ]
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        given = {each["name"]: each["value"] for each in container["env"]}
        are_settings(given, GATEWAY)
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        mounted = mounts[str(Path(given["PENSTOCK_GATEWAY_TOKENS"]).parent)]
        (volume,) = [each for each in pod["volumes"] if each["name"] == mounted]
        # What is open to others, or to be written by a group, is refused.
        assert volume["secret"]["defaultMode"] & OTHERS == 0


# -- systemd


class TestSystemd:
    folder = DEPLOY / "systemd"

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """A root directory in which all is installed as docs/operations.md says, beside a system's usual targets."""
        units = tmp_path / "etc" / "systemd" / "system"
        units.mkdir(parents=True)
        for name in ("basic", "multi-user", "network-online", "shutdown", "sysinit", "time-set"):
            (units / f"{name}.target").write_text("[Unit]\n")
        for path in self.folder.iterdir():
            if path.name != "etc":
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, units / path.name)
        bin = tmp_path / "opt" / "penstock" / "bin"
        bin.mkdir(parents=True)
        for process in PROCESSES:
            shutil.copy("/bin/true", bin / f"penstock-{process}")
        return tmp_path

    def test_systemd_takes_the_units(self, root: Path) -> None:
        services = [f"penstock@{service}.service" for service in sorted(PROCESSES)]
        said = run(
            tool("systemd-analyze"), "verify", "--man=no", f"--root={root}", *services, "penstock.target"
        )
        assert said == ""

    def test_they_are_hardened(self, root: Path) -> None:
        unit = root / "etc" / "systemd" / "system" / "penstock@scheduler.service"
        shutil.copy(self.folder / "penstock@.service", unit)
        run(tool("systemd-analyze"), "security", "--offline=true", "--threshold=15", unit)  # 1.5 of 10

    def test_the_target_wants_every_service(self) -> None:
        wanted = re.findall(r"penstock@([\w-]+)\.service", (self.folder / "penstock.target").read_text())
        assert sorted(wanted) == sorted(SERVICES)

    def test_environment_files_hold_settings_and_each_service_has_a_port_of_its_own(self) -> None:
        files = {path.stem: path for path in (self.folder / "etc").glob("*.env")}
        assert files.keys() == PROCESSES | {"penstock"}
        ports = set[str]()
        for path in files.values():
            values = dict(line.split("=", 1) for line in path.read_text().splitlines() if line[:1] != "#")
            are_settings(values, path.stem)
            ports |= {value for name, value in values.items() if name == "PENSTOCK_METRICS_PORT"}
        assert len(ports) == len(PROCESSES)
        drop_in = (self.folder / "penstock@signal-router.service.d" / "token-key.conf").read_text()
        assert set(re.findall(r"PENSTOCK_\w+", drop_in)) <= KNOWN_SETTINGS

    def test_the_gateway_has_its_tokens_and_nothing_of_valkeys(self) -> None:
        drop_in = (self.folder / "penstock@gateway.service.d" / "tokens.conf").read_text()
        assert set(re.findall(r"^Environment=(\w+)", drop_in, re.MULTILINE)) <= GATEWAY_SETTINGS
        # The empty one drops the files that the template names, and with them Valkey's password.
        files = re.findall(r"^EnvironmentFile=(.*)$", drop_in, re.MULTILINE)
        assert files == ["", "/etc/penstock/gateway.env"]
        assert "VALKEY" not in (self.folder / "etc" / "gateway.env").read_text()


# -- NATS


@pytest.mark.parametrize("name", sorted(path.name for path in (DEPLOY / "nats").glob("*.conf")))
def test_nats_server_takes_its_configuration(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / "nats" / name).read_text()
    config = tmp_path / name
    assert "/var/lib/nats" in text
    config.write_text(text.replace("/var/lib/nats", str(tmp_path)))  # the check wants to write there
    said = run(find_nats().path, "-t", "--config", config, env={"NATS_NAME": "nats-1"})
    assert "is valid" in said


# -- Prometheus and Grafana


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_it_is_promql(place: str, expression: str) -> None:
    assert selectors(place, expression)


def test_promtool_takes_the_rules_and_they_fire_when_they_should() -> None:
    promtool, folder = tool("promtool"), DEPLOY / "prometheus"
    run(promtool, "check", "rules", "alerts.yaml", cwd=folder)
    run(promtool, "check", "config", "prometheus.yaml", cwd=folder)
    run(promtool, "test", "rules", "alerts_test.yaml", cwd=folder)


def test_each_alert_is_explained_where_it_says() -> None:
    headings = re.findall(r"^#+ (.+)$", OPERATIONS.read_text(), re.MULTILINE)
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names)
    for alert in alerts():
        assert alert["alert"] in headings
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"]["summary"]


def test_the_dashboard_has_no_two_panels_in_one_place() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)

    def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        return not (beside or above)

    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"] and panel["targets"]


def test_grafana_finds_the_dashboard_where_compose_puts_it() -> None:
    (provider,) = documents("grafana/provisioning/dashboards/penstock.yaml")[0]["providers"]
    (grafana,) = [each for name, each in TestCompose.spec["services"].items() if name == "grafana"]
    targets = [volume.split(":")[1] for volume in grafana["volumes"]]
    assert f"{provider['options']['path']}/penstock.json" in targets
    (source,) = documents("grafana/provisioning/datasources/penstock.yaml")[0]["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in TestCompose.spec["services"]
