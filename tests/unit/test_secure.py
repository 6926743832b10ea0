"""`penstock secure` without servers: the table of permissions, the folder, identities, certificates."""

import subprocess
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import msgspec
import pytest

import matching_subjects
from penstock.bus import callers, identity
from penstock.bus.callers import Caller
from penstock.bus.identity import Identity
from penstock.bus.reply_guard import ReplyGuard
from penstock.errors import PenstockError
from penstock.local.servers import find_nats
from penstock.messages.executions import WorkNext
from penstock.messages.search import VERB_OF_ACTION, BulkActionName
from penstock.messages.workers import WorkerDrain
from penstock.runtime.settings import Settings
from penstock.secure import certificates, roles, services, valkey_acl
from penstock.secure.folder import Folder
from penstock.secure.roles import PERMISSIONS, ROLES, Role
from penstock.secure.wishes import Deployment, SecureError, changed, wanted
from penstock.secure.writing import write
from penstock.store.places import Host, parse
from penstock.verbs import SERVICES, VERBS, WORK_NEXT, WORKER_DRAIN

ALL = [wanted(role, f"{role}=ci.>" if role == "publisher" else role) for role in ROLES]
DEPLOY = Path(__file__).parents[2] / "deploy"


def someone(name: str, role: str, *lanes: str) -> Identity:
    return Identity(name=name, role=role, lanes=lanes, nkey_seed="", ca="")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = Folder(tmp_path_factory.mktemp("secure") / "folder")
    write(
        made,
        Deployment(streams=(services.Followed("CD", "cd.>"),)),
        [*ALL, wanted("worker", "mail=mail,bulk")],
    )
    return made


# -- the table ------------------------------------------------------------------------------------


def test_every_verb_is_somebodys() -> None:
    assert set().union(*(each.verbs for each in PERMISSIONS.values())) == set(VERBS)


def test_changing_verbs_are_no_viewers() -> None:
    seen = PERMISSIONS["viewer"].verbs
    answers = {"get", "list", "history", "wait", "explain", "graph", "steps", "read", "backlog"}
    answers |= {"search", "stats", "groups", "blocked", "query", "versions", "times"}
    assert {name.split(".")[1] for name in seen} == answers
    assert seen <= PERMISSIONS["operator"].verbs


def test_only_workers_hold_leases() -> None:
    holders = {role for role, allowed in PERMISSIONS.items() if "lease.complete" in allowed.verbs}
    assert holders == {"worker", "gateway"}
    assert "lease.revoke" not in PERMISSIONS["worker"].verbs


@pytest.mark.parametrize("role", ROLES)
def test_what_may_not_be_done_to_one_may_not_be_done_to_many(role: Role) -> None:
    verbs = PERMISSIONS[role].verbs
    assert set(VERB_OF_ACTION) == set(get_args(BulkActionName))
    assert "execution.bulk" not in verbs or verbs.issuperset(VERB_OF_ACTION.values())


@pytest.mark.parametrize("role", ROLES)
def test_no_role_reaches_what_is_the_services(role: str) -> None:
    allowed = roles.subjects_of(someone("u", role), "penstock")
    for subject in ("penstock.hint.ready", "penstock.hint.alive.scheduler", "penstock.audit.a.b.c.d", "penstock.dead.x",
                    "penstock.worker.other.w", "penstock.frame.x", "_INBOX.other.1",
                    "$JS.API.STREAM.DELETE.PENSTOCK_AUDIT",
                    "$JS.API.STREAM.UPDATE.PENSTOCK_AUDIT", "$JS.API.CONSUMER.CREATE.PENSTOCK_AUDIT.x",
                    "penstock.v1.execution.get", "penstock.v1.execution.get.as.other"):  # fmt: skip
        assert not matching_subjects.allow(allowed.publish, subject), subject
    for subject in ("_INBOX.other.1", "_INBOX.>", ">", "penstock.hint.ready", "penstock.v1.execution.create.as.>",
                    "penstock.worker.other.w", "penstock.worker.*.*", "penstock.signal.>"):  # fmt: skip
        assert not matching_subjects.allow(allowed.subscribe, subject), subject


def test_a_service_serves_its_own_verbs_only() -> None:
    for name in SERVICES:
        allowed = services.subjects_of(someone(name, "service"), "penstock")
        served = {subject for subject in allowed.subscribe if subject.startswith("penstock.v1.")}
        assert served == {f"penstock.v1.{verb}.as.>" for verb, each in VERBS.items() if each.service == name}


# -- who asks -------------------------------------------------------------------------------------


def test_a_subject_pins_the_user_and_the_lanes() -> None:
    asked = callers.subject(WORK_NEXT, "r", someone("mail", "worker", "mail", "bulk"))
    assert asked == "r.v1.work.next.as.mail.bulk+mail"
    served = callers.served(WORK_NEXT, "r", True)
    assert callers.caller_in(asked, served) == Caller("mail", frozenset({"bulk", "mail"}))
    assert callers.caller_in("r.v1.work.next.as.any", served) == Caller("any", None)


@pytest.mark.parametrize(
    ("worker_id", "lanes", "field"),
    [
        ("mail--1", ["mail"], None),
        ("mail--1", ["mail", "other"], "lanes"),
        ("other--1", ["mail"], "worker_id"),
        ("mail", ["mail"], "worker_id"),
        ("mail-2--1", ["mail"], "worker_id"),
    ],
)
def test_a_worker_asks_for_itself(worker_id: str, lanes: list[str], field: str | None) -> None:
    request = WorkNext(worker_id=worker_id, lanes=lanes)
    objection = callers.objection(WORK_NEXT, Caller("mail", frozenset({"mail"})), request)
    assert (objection.detail["field"] if objection else None) == field


def test_an_operator_drains_any_worker() -> None:
    assert callers.objection(WORKER_DRAIN, Caller("alice"), WorkerDrain(worker_id="mail--1")) is None


def test_a_reply_goes_to_its_caller_only() -> None:
    guard = ReplyGuard("penstock", ["_INBOX."])
    assert guard.admits("_INBOX.mail.1.2", "_INBOX.mail.")
    assert not guard.admits("_INBOX.alice.1.2", "_INBOX.mail.")
    assert not guard.admits("_INBOX.mail2.1", "_INBOX.mail.")


# -- the folder -----------------------------------------------------------------------------------


def test_everything_is_its_owners_alone(written: Folder) -> None:
    for path in written.path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert written.path.stat().st_mode & 0o777 == 0o700


def test_a_second_run_keeps_all_and_adds(written: Folder) -> None:
    before = {path: path.read_bytes() for path in written.path.rglob("*") if path.is_file()}
    assert write(written, written.deployment()) == []
    assert {path: path.read_bytes() for path in written.path.rglob("*") if path.is_file()} == before
    assert write(written, written.deployment(), [wanted("viewer", "second")]) == ["users/second.json: viewer"]
    after = {
        path.name
        for path in written.path.rglob("*")
        if path.is_file() and path.read_bytes() != before.get(path)
    }
    assert after == {"second.json", "accounts.conf"}


def test_only_the_rotated_gets_a_new_key(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    write(made, Deployment(), [wanted("viewer", "a"), wanted("worker", "b=x")])
    before, password = made.users(), made.service("scheduler").valkey_password
    write(made, made.deployment(), rotate=["b", "scheduler"])
    after = made.users()
    assert after[0] == before[0]
    assert after[1].nkey_seed != before[1].nkey_seed and (after[1].lanes, after[1].role) == (("x",), "worker")
    assert made.service("scheduler").valkey_password not in (password, None)
    with pytest.raises(SecureError, match="no user 'nobody'"):
        write(made, made.deployment(), rotate=["nobody"])


def test_a_new_authority_reaches_every_file(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    write(made, Deployment(), [wanted("viewer", "a")])
    old = made.authority.read_text()
    made.authority.unlink()
    write(made, made.deployment())
    new = made.authority.read_text()
    assert new != old
    assert {each.ca for each in (*made.users(), *map(made.service, SERVICES))} == {new}
    assert certificates.good((tmp_path / "tls" / "nats.crt").read_text(), ["localhost"], new)


def test_a_certificate_is_made_anew_for_further_hosts(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    write(made, Deployment())
    write(made, Deployment(hosts=("nats.example", "10.0.0.7")))
    found, ca = (tmp_path / "tls" / "nats.crt").read_text(), made.authority.read_text()
    assert certificates.good(found, ["nats.example", "10.0.0.7", "localhost"], ca)
    assert not certificates.good(found, ["other.example"], ca)
    assert not certificates.good(found, ["localhost"], certificates.authority("other").certificate)


def test_clusters_are_named_by_some_of_their_servers(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    nats_url, valkey_url = "tls://n1:4222,tls://n2:4222", "valkeys+cluster://v1:6379,v2:6379"
    write(made, changed(Deployment(), nats_url=nats_url, valkey_url=valkey_url))
    ca = made.authority.read_text()
    assert certificates.good((tmp_path / "tls" / "nats.crt").read_text(), ["n1", "n2"], ca)
    assert certificates.good((tmp_path / "tls" / "valkey.crt").read_text(), ["v1", "v2"], ca)
    settings = made.settings("scheduler", nats_url, valkey_url)
    assert settings["PENSTOCK_NATS_URL"] == nats_url
    place = parse(Settings.from_env(settings).valkey_url)
    assert place.hosts == (Host("v1", 6379), Host("v2", 6379)) and place.scheme == "rediss"
    assert place.login == f"scheduler:{made.service('scheduler').valkey_password}@"


def test_a_login_keeps_the_options_of_the_url(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    url = "rediss+sentinel://s1,s2/main?sentinel_password=p"
    write(made, changed(Deployment(), valkey_url=url))
    place = parse(made.valkey_login(url, "scheduler"))
    assert place.sentinel_login == (("password", "p"),)
    assert place.options == f"ssl_ca_certs={quote(str(made.authority), safe='')}"
    with pytest.raises(SecureError) as caught:
        changed(made.deployment(), valkey_url="redis+sentinel://:hidden@s1/main?sentinel_password=hidden")
    assert "hidden" not in str(caught.value)


def test_a_folder_without_a_replicas_password_says_what_to_do(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    write(made, Deployment())
    (tmp_path / "valkey" / "replica.password").unlink()
    with pytest.raises(SecureError, match=r"replica\.password cannot be read: .*run `penstock secure` again"):
        made.valkey_password("replica")
    assert write(made, made.deployment()) == [
        "valkey/replica.password: for replicas of Valkey (masteruser replica, masterauth)"
    ]


def test_a_certificate_for_one_side_is_made_anew(tmp_path: Path) -> None:
    """Folders of earlier versions have certificates with which no cluster forms."""
    made = Folder(tmp_path)
    write(made, Deployment())
    found, ca = (tmp_path / "tls" / "nats.crt").read_text(), made.authority.read_text()
    assert certificates.good(found, ["localhost"], ca)
    with pytest.MonkeyPatch.context() as earlier:
        earlier.setattr(certificates, "SIDES", certificates.SIDES[:1])
        signed = certificates.Signed(ca, (tmp_path / "tls" / "ca.key").read_text())
        old = certificates.server("nats", ["localhost"], signed).certificate
        assert certificates.good(old, ["localhost"], ca)
    assert not certificates.good(old, ["localhost"], ca)


def test_nats_server_takes_the_accounts(written: Folder, tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        f'jetstream {{ store_dir: "{tmp_path}" }}\n{(written.path / "nats" / "accounts.conf").read_text()}'
    )
    checked = subprocess.run(
        [find_nats().path, "-t", "-c", config], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_template_for_nats_server_holds(written: Folder, tmp_path: Path) -> None:
    text = (DEPLOY / "nats" / "secure.conf.template").read_text()
    for name, value in (
        ("${SERVER_NAME}", "n1"),
        ("/data/jetstream", f"{tmp_path}/js"),
        ("/etc/nats/", f"{written.path}/tls/"),
    ):
        assert name in text
        text = text.replace(name, value)
    (tmp_path / "nats.conf").write_text(text)
    (tmp_path / "accounts.conf").write_text((written.path / "nats" / "accounts.conf").read_text())
    checked = subprocess.run(
        [find_nats().path, "-t", "-c", tmp_path / "nats.conf"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_template_for_valkey_is_what_is_written() -> None:
    lines = (DEPLOY / "valkey" / "users.acl.template").read_text().splitlines()
    names = {name: f"{name}-sha256" for name in (*SERVICES, valkey_acl.ADMIN, valkey_acl.REPLICA)}
    assert "\n".join(lines) + "\n" == valkey_acl.acl("penstock", names)


def test_servers_get_no_secret(written: Folder) -> None:
    told = "".join((written.path / name).read_text() for name in ("nats/accounts.conf", "valkey/users.acl"))
    for each in (*written.users(), *map(written.service, SERVICES)):
        assert each.nkey_seed not in told and each.nkey_seed not in repr(each)
        assert each.valkey_password is None or each.valkey_password not in told + repr(each)


@pytest.mark.parametrize(
    ("role", "text", "why"),
    [
        ("viewer", "a--b", "no user's name"),
        ("viewer", "a.b", "no user's name"),
        ("worker", "a-", "no user's name"),  # its worker a---1 would be taken for one of the user a
        ("viewer", "x" * 33, "no user's name"),
        ("viewer", "a=lane", "only a worker and a publisher"),
        ("publisher", "a", "NAME=SUBJECT"),
        ("publisher", "a=*.x", "NAME=SUBJECT"),
        ("publisher", "a=>", "NAME=SUBJECT"),
        ("publisher", "a=$JS.API.>", "NAME=SUBJECT"),
        ("publisher", "a=_INBOX.>", "NAME=SUBJECT"),
        ("publisher", 'a=x"y', "NAME=SUBJECT"),
        ("worker", "a=", "NAME=LANE"),
        ("worker", "a=x,*", "NAME=LANE"),
    ],
)
def test_bad_users_are_refused(role: roles.Role, text: str, why: str) -> None:
    with pytest.raises(SecureError, match=why):
        wanted(role, text)


def test_what_disagrees_with_the_folder_is_refused(written: Folder) -> None:
    with pytest.raises(SecureError, match="a service's name"):
        write(written, written.deployment(), [wanted("viewer", "scheduler")])
    with pytest.raises(SecureError, match="a worker 'mail' already"):
        write(written, written.deployment(), [wanted("worker", "mail=other")])
    with pytest.raises(SecureError, match="for the root 'penstock'"):
        write(written, Deployment(root="other"))
    for wrong in (
        {"valkey_url": "redis://h"},
        {"valkey_url": "redis+cluster://h,i"},
        {"valkey_url": "rediss:///0"},
        {"nats_url": "tls://a,redis://b"},
    ):
        with pytest.raises(SecureError, match="no URL of a secured server"):
            changed(Deployment(), **wrong)
    with pytest.raises(SecureError, match="the URL of Valkey: it lacks the name of the primary"):
        changed(Deployment(), valkey_url="rediss+sentinel://h")
    with pytest.raises(SecureError, match="Penstock's own"):
        written.accounts(changed(Deployment(), streams=["X=penstock.audit.>"]))
    with pytest.raises(SecureError, match="holds no security"):
        Folder(written.path / "users").deployment()


def test_a_folder_with_a_broken_identity_says_which(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    write(made, Deployment(), [wanted("viewer", "a")])
    good = made.user_file("a").read_text()
    for text, why in (
        (good[:40], "cut or garbled"),
        (good.replace('"a"', '"b"'), "is not the identity"),
        (good.replace('"role"', '"rule"'), "unknown field `rule`"),
        ("x", "is not"),
    ):
        made.user_file("a").write_text(text)
        with pytest.raises(SecureError, match=f"a.json.*{why}"):
            write(made, made.deployment())


def test_a_credentials_file_is_no_identity(tmp_path: Path) -> None:
    path = tmp_path / "x.creds"
    path.write_text("-----BEGIN NATS USER JWT-----\n")
    assert identity.read(path) is None
    path.write_bytes(msgspec.json.encode({"name": "a", "role": "viewer", "nkey_seed": "S", "ca": "none"}))
    with pytest.raises(PenstockError, match="no identity"):
        identity.read(path)
