"""Files by path or URL."""

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as PathManagerBase

__all__ = ["PathHandler", "PathManager"]

PathManager = PathManagerBase()
"""Opens, lists and caches files. A manager of our own, so that handlers added here stay here."""


class Detectron2Handler(PathHandler):
    """Resolves detectron2://... to the files published with detectron2 (pretrained backbones)."""

    PREFIX = "detectron2://"
    S3_DETECTRON2_PREFIX = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _url(self, path: str) -> str:
        return self.S3_DETECTRON2_PREFIX + path.removeprefix(self.PREFIX)

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        url = self._url(path)
        try:
            return PathManager.get_local_path(url, force=force, **kwargs)
        except OSError as error:
            raise ConnectionError(
                f"{path} could not be fetched ({error}): without a network, copy {url} here by "
                "other means and give its path instead"
            ) from error

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        return PathManager.open(self._get_local_path(path), mode, **kwargs)


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(Detectron2Handler())
