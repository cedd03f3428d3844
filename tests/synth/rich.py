"""Which process has a library for nearly every reason, so that damage to it can contradict any of them?"""

from __future__ import annotations

import shutil
from pathlib import Path

from dlwhy.tests.synth.process import compile_file, dump

OWED = """
extern "C" int dep();
struct Cache { int lines = dep(); ~Cache(); };
Cache::~Cache() { lines = 0; }
static thread_local Cache cache;
extern "C" void use_NAME() { ++cache.lines; }
"""

UNIQUE = """
template <class T> struct Registry { static T instance; };
template <class T> T Registry<T>::instance;
inline int *counter() { static int count; return &count; }
extern "C" void use_unique() { Registry<int>::instance += ++*counter(); }
"""

MAIN = r"""
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <cstdio>
#include <cstdlib>
extern "C" int needed();
static void *open_it(const char *name, int mode = RTLD_NOW) {
    void *handle = dlopen(name, mode);
    if (!handle) { std::fprintf(stderr, "%s\n", dlerror()); std::exit(3); }
    return handle;
}
static void call(void *handle, const char *name) { reinterpret_cast<void (*)()>(dlsym(handle, name))(); }
static sem_t done, go, never;
static void *stays(void *handle) { call(handle, "use_owed"); sem_post(&done); for (;;) sem_wait(&never); }
static void *leaves(void *handle) { call(handle, "use_left"); sem_post(&done); sem_wait(&go); return nullptr; }
static pthread_t start(void *(*work)(void *), void *handle) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    pthread_create(&thread, &attributes, work, handle);
    sem_wait(&done);
    return thread;
}
int main() {
    needed();
    sem_init(&done, 0, 0);
    sem_init(&go, 0, 0);
    sem_init(&never, 0, 0);
    for (int i = 0; i < FILLERS; i++) {
        char name[32];
        std::snprintf(name, sizeof name, "libfill%d.so", i);
        open_it(name);
    }
    open_it("libplain.so");
    open_it("libplain.so");
    dlclose(open_it("libpinned.so"));
    dlclose(open_it("libflag.so", RTLD_NOW | RTLD_NODELETE));
    void *unique = open_it("libunique.so");
    call(unique, "use_unique");
    dlclose(unique);
    void *provider = open_it("libprovider.so", RTLD_NOW | RTLD_GLOBAL);
    open_it("libeager.so");
    dlclose(provider);
    void *owed = open_it("libowed.so");
    start(stays, owed);
    start(stays, owed);
    call(owed, "use_owed");
    dlclose(owed);
    void *left = open_it("libleft.so");
    pthread_t thread = start(leaves, left);
    dlclose(left);
    sem_post(&go);  // the thread exits, and nothing collects the library afterwards
    pthread_join(thread, nullptr);
    if (!dlmopen(LM_ID_NEWLM, "libspace.so", RTLD_NOW)) { std::fprintf(stderr, "%s\n", dlerror()); std::exit(3); }
    std::puts("ready");
    std::fflush(stdout);
    std::getchar();
    std::getchar();
    return 0;
}
"""

#: So many libraries come before those of interest, lest only the first ones be looked at closely.
FILLERS = 40

#: What the process has loaded, and why it stays (None: nothing keeps it).
EXPECTED = {
    "libneeded.so": "startup",
    "libplain.so": "open-count",
    "libpinned.so": "nodelete",
    "libpinneddep.so": "dependency",
    "libflag.so": "nodelete",
    "libunique.so": "nodelete",
    "libprovider.so": "relocation",
    "libeager.so": "open-count",
    "libowed.so": "tls-destructors",
    "libdep.so": "dependency",
    "libleft.so": None,
    "libspace.so": "open-count",
}


def build(folder: Path) -> Path:
    """Compile program and libraries."""
    compile_file(folder, "libneeded.so", 'extern "C" int needed() { return 1; }')
    compile_file(folder, "libplain.so", "int plain;")
    fill = compile_file(folder, "libfill0.so", "int fill;")
    for number in range(1, FILLERS):
        shutil.copy(fill, folder / f"libfill{number}.so")
    compile_file(folder, "libspace.so", "int space;", "-Wl,--no-as-needed", "-lc")
    compile_file(folder, "libpinneddep.so", "int pinned_dep;")
    compile_file(folder, "libpinned.so", "int pinned;", "-Wl,--no-as-needed", "-lpinneddep", "-Wl,-z,nodelete")
    compile_file(folder, "libflag.so", "int flag;")
    compile_file(folder, "libunique.so", UNIQUE)
    compile_file(folder, "libprovider.so", 'extern "C" { int provided = 1; }')
    compile_file(folder, "libeager.so", 'extern "C" int provided; void use_eager() { ++provided; }')
    compile_file(folder, "libdep.so", 'extern "C" int dep() { return 1; }')
    compile_file(folder, "libowed.so", OWED.replace("NAME", "owed"), "-ldep")
    compile_file(folder, "libleft.so", OWED.replace("NAME", "left"), "-ldep")
    return compile_file(folder, "main", MAIN, f"-DFILLERS={FILLERS}", "-lneeded")


def core(folder: Path) -> Path:
    """Write the core of the process at its stop."""
    return dump(build(folder), folder / "core", environment={"MALLOC_ARENA_MAX": "1"})
