/* One library of a random graph. What it is called, binds to and opens stands in an assembler file of its own
 * (graphs.py), so that this is compiled only once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

struct opening {
    const char *name;
    long mode;
};

extern const char lib_name[] __attribute__((visibility("hidden")));
extern void (*const lib_lazy[])(void) __attribute__((visibility("hidden")));
extern const struct opening lib_opens[] __attribute__((visibility("hidden")));
extern void lib_fini(void *const *handles) __attribute__((visibility("hidden"), weak));
extern void lib_owe_cxx(void) __attribute__((visibility("hidden"), weak));
extern int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);

void *__dso_handle __attribute__((visibility("hidden"))) = &__dso_handle;

static void *opened[8];
static int state;

static void say(const char *word, const char *name)
{
    char line[80] = "";
    strcat(strcat(strcat(line, word), name), "\n");
    if (write(1, line, strlen(line)) < 0)
        _exit(3);
}

__attribute__((constructor)) static void init(void)
{
    for (int i = 0; lib_opens[i].name; i++)
        opened[i] = dlopen(lib_opens[i].name, (int)lib_opens[i].mode);
}

__attribute__((destructor)) static void fini(void)
{
    say("fini ", lib_name);
    if (lib_fini)
        lib_fini(opened);
}

static void owed(void *object)
{
    (void)object;
}

int lib_state(void)
{
    return ++state;
}

void lib_call(long index)
{
    lib_lazy[index]();
}

/* The result is kept, else this were a tail call and dlsym's caller another. */
void lib_find(const char *name)
{
    void *volatile found = dlsym(RTLD_DEFAULT, name);
    (void)found;
}

void lib_owe(void)
{
    if (lib_owe_cxx)
        lib_owe_cxx();
    else
        __cxa_thread_atexit_impl(owed, NULL, &__dso_handle);
}
