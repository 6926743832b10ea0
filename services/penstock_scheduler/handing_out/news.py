"""Which lanes may have work for whom: what the answers "nothing more" said, and what was announced since."""

from collections import defaultdict

from penstock_scheduler.handing_out.parked import Profile

Place = tuple[int, str]
"""(partition, lane)."""
ANY: str = "*"
"""Announced instead of a kind: work of any kind may be ready, for example after a lane was resumed."""


class News:
    """Remembers per place the profiles that found nothing there, until work that they take is announced."""

    def __init__(self) -> None:
        self._now = 0
        self._forgotten = 0
        self._exhausted: defaultdict[Place, set[Profile]] = defaultdict(set)
        # Per place: kind -> when it was last announced; the latest is at the end.
        self._announced: defaultdict[Place, dict[str, int]] = defaultdict(dict)

    def now(self) -> int:
        """Return the present moment, to be kept while a question is under way."""
        return self._now

    def announce(self, place: Place, kind: str) -> None:
        """Note that work of this kind became ready."""
        self._now += 1
        announced, exhausted = self._announced[place], self._exhausted[place]
        announced.pop(kind, None)
        announced[kind] = self._now
        exhausted -= {profile for profile in exhausted if _concerns(kind, profile)}

    def exhaust(self, place: Place, profile: Profile, asked: int) -> None:
        """Note that a question asked at the moment `asked` found nothing more, unless there has been news since."""
        if asked < self._forgotten:
            return
        for kind, at in reversed(self._announced[place].items()):
            if at <= asked:
                break
            if _concerns(kind, profile):
                return
        self._exhausted[place].add(profile)

    def may_have_work(self, place: Place, profile: Profile) -> bool:
        return profile not in self._exhausted[place]

    def forget(self) -> None:
        """Assume that every lane may have work, even where a question under way will be answered "nothing more"."""
        self._now += 1
        self._forgotten = self._now
        self._exhausted.clear()
        self._announced.clear()


def _concerns(kind: str, profile: Profile) -> bool:
    return kind == ANY or profile.takes(kind)
