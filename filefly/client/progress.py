"""What a client tells of a transfer while it runs."""


class Progress:
    """Hears of a transfer, in the reactor's thread. Override what is of interest; all of it does nothing here."""

    def started(self, name: str, total_size: int) -> None:
        """Hear that the transfer of file `name`, `total_size` bytes long, begins."""

    def moved(self, name: str, size: int) -> None:
        """Hear that another `size` bytes have moved; negative where they must move again."""

    def block_done(self, name: str, block_id: str, size: int, server: str, done: int, total: int) -> None:
        """Hear that a block is stored on, or was read from, `server`: the `done`th of `total`."""

    def finished(self, name: str) -> None:
        """Hear that the file is in place."""
