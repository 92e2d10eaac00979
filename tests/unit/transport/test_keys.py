import os
import shutil
import stat

import pytest
import zmq
import zmq.auth
from typer.testing import CliRunner

from streamrecon.cli.main import app
from streamrecon.errors import ConfigError
from streamrecon.transport.keys import ROLES, ClientKeys, ServerKeys, client_folder, make_client, make_server


@pytest.fixture
def folder(tmp_path):
    umask = os.umask(0)  # the loosest: modes must not depend on it
    try:
        make_server(tmp_path / "keys")
        yield tmp_path / "keys"
    finally:
        os.umask(umask)


def modes(folder):
    return {p: stat.S_IMODE(p.stat().st_mode) for p in [folder, *folder.rglob("*")]}


def test_only_public_keys_can_be_read_by_others(folder):
    make_client(folder, "alice", "subscriber")
    for path, mode in modes(folder).items():
        if path.is_file():
            assert mode == (0o600 if path.suffix == ".key_secret" else 0o644), path
            assert ("secret-key" in path.read_text()) == (path.suffix == ".key_secret")
        else:
            # whoever may write to authorized/ lets in whom they like
            assert mode == 0o700, path
    assert sum(p.suffix == ".key_secret" for p in folder.rglob("*")) == 5


def test_keys_are_pairs_that_zmq_reads(folder):
    keys = ServerKeys.load(folder)
    assert zmq.curve_public(keys.secret) == keys.public
    assert zmq.auth.load_certificate(folder / "server.key_secret") == (keys.public, keys.secret)
    worker = ClientKeys.load(client_folder(folder, "worker"))
    assert zmq.curve_public(worker.secret) == worker.public
    assert worker.server == keys.public
    assert keys.secret.decode() not in repr(keys)
    assert worker.secret.decode() not in repr(worker)


def test_roles_are_apart_and_a_deleted_key_is_out(folder):
    keys = ServerKeys.load(folder)
    worker = ClientKeys.load(client_folder(folder, "worker")).public
    alice_file = make_client(folder, "alice", "subscriber")[-1]
    alice = ClientKeys.load(client_folder(folder, "alice")).public
    assert (keys.authorizes("worker", worker), keys.authorizes("subscriber", worker)) == (True, False)
    assert (keys.authorizes("worker", alice), keys.authorizes("subscriber", alice)) == (False, True)
    operator = ClientKeys.load(client_folder(folder, "operator")).public
    assert [role for role in ROLES if keys.authorizes(role, operator)] == ["control"]
    assert [role for role in ROLES if keys.authorizes(role, worker)] == ["worker"]
    (folder / "authorized" / "broken.key").write_text("nonsense")
    assert keys.authorizes("subscriber", alice)
    alice_file.unlink()
    assert not keys.authorizes("subscriber", alice)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_secret_that_others_can_read_is_refused_with_the_remedy(folder, mode):
    for path, load in (
        (folder / "server.key_secret", lambda: ServerKeys.load(folder)),
        (client_folder(folder, "local") / "client.key_secret", lambda: ClientKeys.load(client_folder(folder, "local"))),
    ):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=f"found mode {mode:04o}; run chmod 600 "):
            load()
        path.chmod(0o600)
        load()


def test_what_is_no_key_is_told(folder):
    secret = folder / "server.key_secret"
    secret.write_text((folder / "server.key").read_text())
    with pytest.raises(ConfigError, match="expected a secret key, found none"):
        ServerKeys.load(folder)
    secret.write_text('curve\n    public-key = "short"\n')
    with pytest.raises(ConfigError, match="expected a CURVE key"):
        ServerKeys.load(folder)
    secret.unlink()
    with pytest.raises(ConfigError, match=r"cannot be read .*keygen"):
        ServerKeys.load(folder)


def test_nothing_is_written_over(folder):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="not written over"):
        make_server(folder)
    with pytest.raises(ConfigError, match="not written over"):
        make_client(folder, "local", "subscriber")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_client_that_is_in_the_way_in_part_is_told_as_a_whole_and_the_remedy_helps(folder):
    """Handed over and deleted here, as the documentation allows, and now to get other keys."""
    make_client(folder, "alice", "subscriber")
    shutil.rmtree(client_folder(folder, "alice"))
    with pytest.raises(ConfigError, match="not written over") as refused:
        make_client(folder, "alice", "subscriber")
    assert not client_folder(folder, "alice").exists(), "keys that open nothing"
    (in_the_way,) = [p for p in folder.rglob("*") if str(p) in str(refused.value) and p.is_file()]
    in_the_way.unlink()
    make_client(folder, "alice", "subscriber")
    alice = ClientKeys.load(client_folder(folder, "alice")).public
    assert ServerKeys.load(folder).authorizes("subscriber", alice)


@pytest.mark.parametrize("name", ["authorized", "authorized/workers", "authorized/control"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722])
def test_a_folder_into_which_others_can_put_keys_is_refused_with_the_remedy(folder, name, mode):
    (folder / name).chmod(mode)
    ServerKeys.load(folder)  # nobody gets as far
    folder.chmod(0o755)
    (folder / "authorized").chmod((folder / "authorized").stat().st_mode | 0o055)
    with pytest.raises(ConfigError, match=f"chmod go-w {folder / name}"):
        ServerKeys.load(folder)
    (folder / name).chmod(0o755)
    ServerKeys.load(folder)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a" * 65])
def test_names_cannot_leave_the_folder(folder, name):
    with pytest.raises(ConfigError, match="choose such a name"):
        make_client(folder, name, "subscriber")


def test_the_verb(tmp_path):
    keys = tmp_path / "keys"
    run = CliRunner().invoke
    outcome = run(app, ["keygen", str(keys), "--client", "bob"])
    assert outcome.exit_code == 2, "no server yet"
    assert "No such file" in outcome.output
    assert run(app, ["keygen", str(keys), "--control"]).exit_code == 2, "of whom?"
    assert not keys.exists()
    outcome = run(app, ["keygen", str(keys)])
    assert outcome.exit_code == 0, outcome.output
    assert "security.curve_dir" in outcome.output
    assert run(app, ["keygen", str(keys)]).exit_code == 2
    assert run(app, ["keygen", str(keys), "--client", "bob"]).exit_code == 0
    assert run(app, ["keygen", str(keys), "--client", "far", "--worker"]).exit_code == 0
    assert run(app, ["keygen", str(keys), "--client", "ann", "--control"]).exit_code == 0
    assert run(app, ["keygen", str(keys), "--client", "both", "--control", "--worker"]).exit_code == 2
    assert {p.name for p in (keys / "authorized").glob("*.key")} == {"local.key", "bob.key"}
    assert {p.name for p in (keys / "authorized" / "workers").glob("*.key")} == {"worker.key", "far.key"}
    assert {p.name for p in (keys / "authorized" / "control").glob("*.key")} == {"operator.key", "ann.key"}
