"""Members of tar archives."""

import tarfile


class CheckedMember(tarfile.TarInfo):
    """An archive member whose damaged header raises an error.

    ``tarfile`` takes such a header for the end of the archive and would drop the rest silently.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "CheckedMember":
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile_)
        except (
            tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
            tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
        ) as error:
            raise tarfile.ReadError(str(error)) from error
