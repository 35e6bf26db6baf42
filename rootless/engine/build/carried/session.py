"""What one build has of carried caches: those that it reads, and those that it writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rootless.engine.build.carried import places
from rootless.engine.build.carried.imports import Imports
from rootless.errors import RlessError
from rootless.image.model.platforms import parse_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.engine.build.messages import Say
    from rootless.engine.build.request import BuildRequest
    from rootless.engine.build.steps import Plan, Result, Stage
    from rootless.image.store.store import Store
    from rootless.linux.idmap import IdMap


class Carried:
    """The carried caches of one build. A `with` block.

    Attributes:
        imports: what was read.
    """

    def __init__(self, request: BuildRequest, store: Store, idmap: IdMap, say: Say) -> None:
        """Read the tables of --cache-from; one that cannot be read is a warning.

        Args:
            say: gets the messages for whoever shows the progress.
        """
        self._request = request
        self._store = store
        self._idmap = idmap
        self._say = say
        self._targets = places.parse_to(request.cache_to, request.build_args)
        self.imports = Imports(store.root, idmap)
        if request.no_cache:
            return
        for place in places.parse_from(request.cache_from):
            for platform in request.platforms or ("",):
                try:
                    self.imports.add(place, parse_platform(platform), request.signature_policy)
                except RlessError as error:
                    self._warn(f"no cache from {place.where}: {error.message}")

    def __enter__(self) -> Carried:
        return self

    def __exit__(self, *_: object) -> None:
        self.imports.close()

    def _warn(self, text: str) -> None:
        self._say({"kind": "warning", "text": text})

    def give_up(self, error: RlessError) -> None:
        """Forget what was read: a layer of it cannot be had."""
        self._warn(f"{error.message}: without the caches that were brought, and once more")
        self.imports.close()
        self.imports = Imports(self._store.root, self._idmap)

    def add_inline(
        self, document: dict[str, Any], results: Sequence[Result], target: Stage
    ) -> None:
        """Add the table to the config document of the new image, if that is wanted."""
        if any(place.kind == "inline" for place in self._targets):
            from rootless.engine.build.carried import exports

            root, key, chain = self._store.root, self._idmap.key, results[target.index].state.chain
            entries = exports.entries_of(root, _keys(results), self.imports, [chain])
            exports.inline(root, key, entries, document, self._request.epoch())

    def export(self, plan: Plan, results: Sequence[Result], scratch: str) -> None:
        """Write the caches of --cache-to.

        Args:
            scratch: a directory of the store's file system.

        Raises:
            RlessError: one cannot be written, and that matters.
        """
        targets = [place for place in self._targets if place.kind != "inline"]
        if not targets:
            return
        from rootless.engine.build.carried import exports
        from rootless.engine.build.carried.bringer import bring
        from rootless.image.registry.progress import Progress

        bases = {
            chain
            for stage in plan.stages
            if not isinstance(stage.base, int)
            for chain in stage.base.chain
        }
        directory = f"{scratch}/cache"
        os.mkdir(directory, 0o700)
        store, idmap, count = self._store, self._idmap, iter(range(1 << 20))

        def fetch(chain: Sequence[tuple[str, str]]) -> None:
            into = f"{directory}/{next(count)}"
            os.mkdir(into, 0o700)
            bring(store, idmap, self.imports, chain, into)

        progress = Progress(2, quiet=self._request.progress in ("quiet", "rawjson"), lines=False)
        exporter = exports.Exporter(
            store.root, idmap.key, bases, self.imports, directory, fetch, progress
        )
        for place in targets:
            chains = [results[target.index].state.chain for target in plan.targets]
            entries = exports.entries_of(
                store.root, _keys(results), self.imports, None if place.everything else chains
            )
            try:
                exporter.write(place, entries, self._request.epoch())
            except RlessError as error:
                if not place.may_fail:
                    raise
                self._warn(f"no cache to {place.where}: {error.message}")
            finally:
                progress.finish()


def _keys(results: Sequence[Result]) -> list[str]:
    return [key for result in results for key in result.keys]
