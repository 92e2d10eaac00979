"""CURVE keys on disk, as `streamrecon keygen` writes them and both ends of a socket load them.

FOLDER/                          0700, security.curve_dir of the daemon
  server.key, server.key_secret  of every socket that the daemon binds
  authorized/NAME.key            public keys that may subscribe; a folder that others can write to is refused
  authorized/workers/NAME.key    public keys that may take particles from the feed
  authorized/control/NAME.key    public keys that may command the daemon
  clients/NAME/                  what client NAME needs: client.key, client.key_secret, server.key

The files are ZPL, as `zmq.auth` reads and writes them; secret keys are 0600 from the first byte on.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import zmq
import zmq.auth

from streamrecon.errors import ConfigError

Role = Literal["subscriber", "worker", "control"]
ROLES: tuple[Role, ...] = get_args(Role)
WORKER_NAME = "worker"
OPERATOR_NAME = "operator"
LOCAL_NAME = "local"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_Z85_LENGTH = 40
_SERVER = "server"
_CLIENT = "client"
_PUBLIC_SUFFIX = ".key"
_SECRET_SUFFIX = ".key_secret"
_FOLDERS: dict[Role, tuple[str, ...]] = {
    "subscriber": ("authorized",),
    "worker": ("authorized", "workers"),
    "control": ("authorized", "control"),
}


def authorized_folder(role: Role) -> str:
    """Return where a role's public keys are, below the daemon's folder."""
    return "/".join(_FOLDERS[role])


@dataclass(frozen=True)
class ServerKeys:
    """What a daemon needs to let in whom it knows.

    Attributes
    ----------
    public, secret : bytes
        Z85.
    folder : Path
        Whose ``authorized`` is read anew at every connection: a key put there works at once, one taken away
        is refused from its next connection on.
    """

    public: bytes
    secret: bytes = field(repr=False)
    folder: Path

    @classmethod
    def load(cls, folder: Path) -> ServerKeys:
        """Load a daemon's keys.

        Raises
        ------
        ConfigError
            There are none, they cannot be read, others can read the secret one, or put keys into ``authorized``.
        """
        public, secret = _load_pair(folder / (_SERVER + _SECRET_SUFFIX))
        for role in ROLES:
            _check_closed(folder, _FOLDERS[role])
        return cls(public, secret, folder)

    def authorizes(self, role: Role, public: bytes) -> bool:
        """Return True if the key is in the role's folder; False, too, if the folder cannot be read."""
        return bool(self.name_of(role, public))

    def name_of(self, role: Role, public: bytes) -> str:
        """Return the name under which a key is in the role's folder, "" if it is not."""
        for path in self.folder.joinpath(*_FOLDERS[role]).glob("*" + _PUBLIC_SUFFIX):
            try:
                if load_public(path) == public:
                    return path.name.removesuffix(_PUBLIC_SUFFIX) or path.name
            except ConfigError:
                continue
        return ""


@dataclass(frozen=True)
class ClientKeys:
    """What a client needs: its own pair and the public key of the daemon it will speak to, all in Z85."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes

    @classmethod
    def load(cls, folder: Path | str) -> ClientKeys:
        """Load the keys of a folder that ``keygen`` made for a client.

        Raises
        ------
        ConfigError
            There are none, they cannot be read, or others can read the secret one.
        """
        folder = Path(folder)
        public, secret = _load_pair(folder / (_CLIENT + _SECRET_SUFFIX))
        return cls(public, secret, load_public(folder / (_SERVER + _PUBLIC_SUFFIX)))

    def use(self, sock: zmq.Socket[bytes]) -> None:
        """Make a socket, not yet connected, speak to that daemon and to no other."""
        sock.curve_publickey = self.public
        sock.curve_secretkey = self.secret
        sock.curve_serverkey = self.server


def client_folder(folder: Path, name: str) -> Path:
    """Return where a client's keys are kept for handing over."""
    return folder / "clients" / name


def make_server(folder: Path) -> list[Path]:
    """Make a daemon's key pair and those of its own worker, and of subscribers and the operator on its host.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ConfigError
        There is a pair already, or the folder cannot be written.
    """
    clients: dict[str, Role] = {WORKER_NAME: "worker", LOCAL_NAME: "subscriber", OPERATOR_NAME: "control"}
    own = [folder / (_SERVER + _SECRET_SUFFIX), folder / (_SERVER + _PUBLIC_SUFFIX)]
    _check_free([*own, *(path for name, role in clients.items() for path in _files_of(folder, name, role))])
    public, secret = zmq.curve_keypair()
    _make_folders(folder)
    written = [_write_secret(own[0], public, secret), _write_public(own[1], public)]
    return written + [path for name, role in clients.items() for path in make_client(folder, name, role)]


def make_client(folder: Path, name: str, role: Role) -> list[Path]:
    """Make a client's keys and authorize it; return what was written.

    Raises
    ------
    ConfigError
        The name is taken or none, the daemon has no keys yet, or the folder cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"client {name!r}: expected up to 64 letters, digits, dots, dashes; choose such a name")
    server = load_public(folder / (_SERVER + _PUBLIC_SUFFIX))
    files = _files_of(folder, name, role)
    _check_free(files)
    public, secret = zmq.curve_keypair()
    _make_folders(folder, "clients", name)
    # a folder that an earlier release made lacks the later roles
    _make_folders(folder, *_FOLDERS[role])
    return [
        _write_secret(files[0], public, secret),
        *(_write_public(path, key) for path, key in zip(files[1:], (public, server, public), strict=True)),
    ]


def _files_of(folder: Path, name: str, role: Role) -> list[Path]:
    """Return a client's files: its secret and public key, the daemon's public one, and what authorizes it."""
    own = client_folder(folder, name)
    return [
        own / (_CLIENT + _SECRET_SUFFIX),
        own / (_CLIENT + _PUBLIC_SUFFIX),
        own / (_SERVER + _PUBLIC_SUFFIX),
        folder.joinpath(*_FOLDERS[role]) / (name + _PUBLIC_SUFFIX),
    ]


def _check_free(paths: list[Path]) -> None:
    """Refuse to begin what would end half-way."""
    taken = [str(path) for path in paths if path.exists()]
    if taken:
        raise ConfigError(
            f"{', '.join(taken)}: there already, and keys are not written over; delete all of these if nobody uses "
            "them any more, or choose another name"
        )


def _check_closed(folder: Path, names: tuple[str, ...]) -> None:
    """Refuse folders into which others could put keys; one that they cannot reach may have any mode."""
    others = 0o022
    for path in [folder.joinpath(*names[:depth]) for depth in range(len(names) + 1)]:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            return  # then nobody is let in by it
        if mode & others:
            raise ConfigError(
                f"{path}: expected a folder into which only its owner can put keys, found mode {mode:04o}; run chmod "
                f"go-w {path}, and look through the keys in it"
            )
        others &= (mode & 0o011) << 1


def load_public(path: Path) -> bytes:
    """Return a public key.

    Raises
    ------
    ConfigError
        It is missing or not a key.
    """
    return _load(path)[0]


def _load_pair(path: Path) -> tuple[bytes, bytes]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise _missing(path, error) from error
    if mode & 0o077:
        raise ConfigError(
            f"{path}: expected a secret key that only its owner can read (mode 0600), found mode {mode:04o}; "
            f"run chmod 600 {path}, and make new keys if somebody else may have read it"
        )
    public, secret = _load(path)
    if secret is None or len(secret) != _Z85_LENGTH:
        raise ConfigError(f"{path}: expected a secret key, found none; make new ones with `streamrecon keygen`")
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
        if len(public) != _Z85_LENGTH:
            raise ValueError(f"{len(public)} characters instead of {_Z85_LENGTH}")
    except OSError as error:
        raise _missing(path, error) from error
    except Exception as error:  # what a file makes the parser do
        raise ConfigError(
            f"{path}: expected a CURVE key, found {error}; make new ones with `streamrecon keygen`"
        ) from error
    return public, secret


def _missing(path: Path, error: OSError) -> ConfigError:
    why = error.strerror or "No such file"  # what zmq raises says nothing
    return ConfigError(
        f"{path}: expected a CURVE key, but it cannot be read ({why}); make keys with `streamrecon keygen`, or run as "
        "the user that owns them"
    )


def _make_folders(folder: Path, *names: str) -> None:
    """Make the daemon's folder and those below it, each closed to others whatever the umask."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for depth in range(len(names)):
            folder.joinpath(*names[: depth + 1]).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: cannot be made ({error.strerror}); choose a folder that can be written"
        ) from error


def _write_secret(path: Path, public: bytes, secret: bytes) -> Path:
    text = f'#   secret: whoever reads this can pass for its owner\ncurve\n    public-key = "{public.decode()}"\n'
    return _write(path, text + f'    secret-key = "{secret.decode()}"\n', 0o600)


def _write_public(path: Path, public: bytes) -> Path:
    return _write(path, f'#   public\ncurve\n    public-key = "{public.decode()}"\n', 0o644)


def _write(path: Path, text: str, mode: int) -> Path:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise ConfigError(
            f"{path}: exists, and keys are not written over; delete it if nobody uses it any more, or choose "
            "another name"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose a folder that can be") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    return path
