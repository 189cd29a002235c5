# SPDX-License-Identifier: MIT
"""Files that nobody but this user may read: the secret of the cluster, the hashes of API keys. Where they lie, and how
they are read and written.
"""

import os
import secrets
import stat
from pathlib import Path

import platformdirs

IDENTITY_VARIABLE = "CARAVAN_IDENTITY"

_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SecretFileError(Exception):
    """The file cannot be used; a sentence with what to do."""


def identity_folder() -> Path:
    """Where this user keeps them: CARAVAN_IDENTITY, or else a folder beside the configuration. It need not exist."""
    own = os.environ.get(IDENTITY_VARIABLE)
    return Path(own) if own else Path(platformdirs.user_config_path("caravan", appauthor=False)) / "identity"


def read_secret(path: Path) -> str | None:
    """What the file has; None: there is none.

    Raises:
        SecretFileError: it cannot be read, or others than its owner may read or write it.
    """
    try:
        with path.open(encoding="utf-8") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & _FOR_OTHERS:
                raise SecretFileError(f"{path} holds a secret, and others may read it: chmod 600 {path}")
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise SecretFileError(f"{path} was damaged: it is no text") from None
    except OSError as error:
        raise SecretFileError(f"{path} cannot be read ({error.strerror or error}): mend its rights") from error


def write_secret(path: Path, text: str, *, replace: bool = True) -> None:
    """Whole or not at all, for its owner alone; so is a folder that is made for it.

    Raises:
        FileExistsError: it is there, and not to be `replace`d.
        SecretFileError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        elif os.name == "posix":
            os.link(draft, path)
        else:
            draft.rename(path)
    except FileExistsError:
        raise
    except OSError as error:
        remedy = f"name another folder with {IDENTITY_VARIABLE}, or mend its rights"
        raise SecretFileError(f"{path} cannot be written ({error.strerror or error}): {remedy}") from error
    finally:
        draft.unlink(missing_ok=True)
