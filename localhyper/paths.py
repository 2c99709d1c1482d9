"""Where localhyper keeps its files, and the log. A dozen names and no idea of what is inside the files.

`LOCALHYPER_HOME` puts everything under one folder; otherwise the system's own places are used.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

import platformdirs

from localhyper.errors import ConfigError

HOME_VARIABLE = "LOCALHYPER_HOME"
LOG_BYTES = 2_000_000
LOG_FILES = 3
_APP = "localhyper"


@dataclass(frozen=True)
class Paths:
    """Every folder and file localhyper uses. Making one touches no disk.

    Attributes:
        config_dir: `config.toml` and the user's own `models.toml`.
        data_dir: The library, adapters, base models, hypernetworks: what a backup should hold.
        cache_dir: What can be made again.
        state_dir: Logs and what a program remembers between runs.
    """

    config_dir: Path
    data_dir: Path
    cache_dir: Path
    state_dir: Path

    @property
    def config_file(self) -> Path:
        """The settings."""
        return self.config_dir / "config.toml"

    @property
    def models_file(self) -> Path:
        """The user's own models, laid over the ones known out of the box."""
        return self.config_dir / "models.toml"

    @property
    def library_db(self) -> Path:
        """The SQLite library."""
        return self.data_dir / "library.sqlite3"

    @property
    def adapters_dir(self) -> Path:
        """Adapter files of the library."""
        return self.data_dir / "adapters"

    @property
    def models_dir(self) -> Path:
        """Base models that were fetched or put there."""
        return self.data_dir / "models"

    @property
    def hypernetworks_dir(self) -> Path:
        """Hypernetwork bundles that were fetched or put there."""
        return self.data_dir / "hypernetworks"

    @property
    def chunk_cache_dir(self) -> Path:
        """Finished chunks of attaches that were stopped."""
        return self.cache_dir / "chunks"

    @property
    def checksums_file(self) -> Path:
        """Checksums already computed, so that a large file is read once."""
        return self.cache_dir / "checksums.json"

    @property
    def log_file(self) -> Path:
        """The log, of this program and of llama.cpp."""
        return self.state_dir / "localhyper.log"

    def folders(self) -> tuple[Path, ...]:
        """Every folder, parents first."""
        return (
            self.config_dir,
            self.data_dir,
            self.cache_dir,
            self.state_dir,
            self.adapters_dir,
            self.models_dir,
            self.hypernetworks_dir,
            self.chunk_cache_dir,
        )

    def create(self) -> Paths:
        """Make missing folders, readable by their owner only; existing ones stay as they are.

        Raises:
            ConfigError: A folder cannot be made.
        """
        for folder in self.folders():
            _make_private(folder)
        return self

    def listing(self) -> dict[str, Path]:
        """Names for people and scripts → paths, as `localhyper paths` prints them."""
        return {
            "config": self.config_file,
            "models.toml": self.models_file,
            "library": self.library_db,
            "adapters": self.adapters_dir,
            "models": self.models_dir,
            "hypernetworks": self.hypernetworks_dir,
            "cache": self.cache_dir,
            "log": self.log_file,
        }


def get_paths(home: Path | None = None) -> Paths:
    """The paths in force now.

    Args:
        home: One folder for everything; None = `$LOCALHYPER_HOME`, and where that is empty the system's own places.
    """
    if home is None and os.environ.get(HOME_VARIABLE, "").strip():
        home = Path(os.environ[HOME_VARIABLE].strip())
    if home is not None:
        home = Path(os.path.abspath(home.expanduser()))
        return Paths(home / "config", home / "data", home / "cache", home / "state")
    dirs = platformdirs.PlatformDirs(_APP, appauthor=False)
    return Paths(dirs.user_config_path, dirs.user_data_path, dirs.user_cache_path, dirs.user_state_path)


def setup_logging(paths: Paths, level: int = logging.INFO) -> Path:
    """Send the log of localhyper to its file, rotated at 2 MB; nothing goes to the terminal.

    Calling it again changes the level or the file and never doubles lines. Where the file cannot be written, the
    program goes on without a log.

    Returns:
        The log file.
    """
    logger = logging.getLogger(_APP)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)
    logger.propagate = False
    logger.addHandler(_log_handler(paths.log_file))
    return paths.log_file


def _log_handler(file: Path) -> logging.Handler:
    try:
        _make_private(file.parent)
        handler = RotatingFileHandler(
            file, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="replace"
        )
    except (OSError, ConfigError):
        return logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    return handler


def _make_private(folder: Path) -> None:
    """Make a folder and its missing parents inside ours with mode 0700."""
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"folder `{folder}` cannot be made: {error.strerror or error}",
            f"make it writable, or set {HOME_VARIABLE} to a folder that is",
        ) from error
