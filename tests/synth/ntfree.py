"""What does FreeLibrary do to the modules of a made loader, by the recursive description of each real one?

Nothing here is shared with what predicts it: the modules themselves are counted down, and go.
"""

from __future__ import annotations

from dlwhy.tests.synth.minidump import Loader, Module


def free_on_windows_10(loader: Loader, name: str) -> list[str]:
    """Free as Windows 8 to 11 do; gives what goes, in the order of its detach."""
    dead: list[str] = []
    gone: list[Module] = []

    def owner(module: Module) -> Module:
        return module.merged[0] if module.merged else module

    def lower(module: Module) -> bool:
        if module.count == 0xFFFFFFFF or module.static or module.count < (2 if module.incoming else 1):
            return False
        module.count -= 1
        return module.count == 0

    def unload(module: Module) -> None:
        members = module.merged or [module]
        dead.extend(each.name for each in members)
        gone.extend(members)
        children: list[Module] = []
        for each in sorted(members, key=loader.loaded.index):
            children += [c for c in map(owner, each.children) if c is not module and c not in children]
        for child in children:
            known = [m for m in child.incoming if owner(m) is module]
            if not known:
                continue
            child.incoming = [m for m in child.incoming if owner(m) is not module]
            if lower(child):
                unload(child)

    top = owner(loader.known[name])
    if lower(top):
        unload(top)
    _forget(loader, gone)
    return dead


def free_before_windows_8(loader: Loader, name: str) -> list[str]:
    """Free as XP to Windows 7 do; gives what goes, in the order of its detach."""
    top = loader.known[name]
    if top.count == 0xFFFF:
        return []
    top.count = top.count - 1 & 0xFFFF
    seen: set[int] = set()

    def walk(module: Module) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        for child in module.children:
            if child not in loader.loaded:
                continue
            if child.count != 0xFFFF:
                child.count = child.count - 1 & 0xFFFF
            walk(child)

    walk(top)
    return _detach(loader)


def free_in_wine(loader: Loader, name: str) -> list[str]:
    """Free as Wine does; gives what goes, in the order of its detach."""
    in_progress: set[int] = set()

    def lower(module: Module) -> None:
        if id(module) in in_progress or module.count in (0, 0xFFFF):
            return
        module.count -= 1
        if module.count == 0:
            in_progress.add(id(module))
            for child in module.children:
                if child in loader.loaded and module in child.incoming:
                    lower(child)
            in_progress.discard(id(module))

    if loader.known[name].count != 0xFFFF:
        lower(loader.known[name])
    return _detach(loader)


def _detach(loader: Loader) -> list[str]:
    dead = [module for module in reversed(loader.initialized) if module.count == 0]
    _forget(loader, dead)
    return [module.name for module in dead]


def _forget(loader: Loader, gone: list[Module]) -> None:
    loader.loaded = [module for module in loader.loaded if module not in gone]
    loader.initialized = [module for module in loader.initialized if module not in gone]
