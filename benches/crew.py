"""Client processes of one rival that stand by and make the same call together."""

from ringtable._bench import crew

from benches.rivals import Rival


class Crew(crew.Crew):
    """`size` client processes of one rival, connected unless told otherwise. They end with the block."""

    def __init__(self, rival: Rival, size: int, *, connected: bool = True) -> None:
        super().__init__(size, rival.name)
        self.rival = rival
        if connected:
            try:
                self.call(crew.connect, type(rival).connect, rival.address)
            except BaseException:
                self.kill()
                raise
