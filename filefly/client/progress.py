"""What a client tells of a transfer while it runs."""


class Progress:
    """Hears of a transfer, in the reactor's thread. Override what is of interest; all of it does nothing here."""

    def started(self, name: str, total_size: int) -> None:
        """Hear that the transfer of file `name` begins; so many bytes are to move: of an upload, each of its copies."""

    def kept(self, name: str, size: int) -> None:
        """Hear that so many bytes of the file were in place already, from an earlier try; they count as moved, too."""

    def moved(self, name: str, size: int) -> None:
        """Hear that another `size` bytes have moved; negative where they must move again."""

    def block_done(self, name: str, block_id: str, size: int, server: str, done: int, total: int) -> None:
        """Hear that a block is stored on, or was read from, `server`: the `done`th of `total`."""

    def short_of_copies(self, name: str, blocks: int, total: int) -> None:
        """Hear that so many blocks of `total` have fewer replicas than asked for; they will be repaired."""

    def finished(self, name: str) -> None:
        """Hear that the file is in place."""
