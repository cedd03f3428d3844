/* Opens and closes plugins through libraries that only pass that on, each in a way of its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *wrap_open(const char *name);
void *twice_open(const char *name);
void *copying_open(const char *name);
void *own_open(void);
void *heap_open(const char *name);
void *buffer_open(const char *name);
void *composing_open(const char *name);
void wrap_close(void *handle);

#if defined(LIBWRAP)
/* What follows the call keeps it from being a jump. */
static void *volatile last;
void *wrap_open(const char *name) { return last = dlopen(name, RTLD_NOW); }
void wrap_close(void *handle) { last = dlclose(handle) ? handle : NULL; }
#elif defined(LIBTWICE)
static void *volatile last;
void *twice_open(const char *name) { return last = wrap_open(name); }
#elif defined(LIBCOPYING)
/* Is known by its name: its caller's string is not what it hands over. */
void *copying_open(const char *name)
{
    char *copy = strdup(name);
    void *handle = dlopen(copy, RTLD_NOW);
    free(copy);
    return handle;
}
#elif defined(LIBUNKNOWN)
/* Hands over copies, and is known by no name. */
static void *volatile last;
void *heap_open(const char *name)
{
    char *copy = strdup(name);
    void *handle = dlopen(copy, RTLD_NOW);
    free(copy);
    return handle;
}
void *buffer_open(const char *name)
{
    char copy[64];
    snprintf(copy, sizeof copy, "%s", name);
    return last = dlopen(copy, RTLD_NOW);
}
void *composing_open(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "././lib%s.so", name);
    return last = dlopen(path, RTLD_NOW);
}
#elif defined(LIBOWN)
static void *volatile last;
void *own_open(void) { return last = dlopen("./libplug.so", RTLD_NOW); }
#elif !defined(LIBPLUG)
#define APART __attribute__((noinline, noclone))
static void *volatile last;

APART void constant(void) { last = wrap_open("./libplug.so"); }
APART void variable(const char *number)
{
    char name[64];
    snprintf(name, sizeof name, "./libplug%s.so", number);
    last = wrap_open(name);
}
APART void twice(void) { last = twice_open("./libplug.so"); }
APART void copied(void) { last = copying_open("./libplug.so"); }
APART void copied_to_heap(void) { last = heap_open("./libplug.so"); }
APART void copied_to_buffer(void) { last = buffer_open("./libplug.so"); }
APART void composed(void) { last = composing_open("plug"); }
APART void by_own(void) { last = own_open(); }
APART void *__interceptor_dlopen(const char *name, int mode) { return last = dlopen(name, mode); }
APART void intercepted(void) { last = __interceptor_dlopen("./libplug.so", RTLD_NOW); }
APART void direct(void) { last = dlopen("./libplug.so", RTLD_NOW); }
APART void closing(void) { wrap_close(last); }

int main(void)
{
    constant();
    variable("");
    twice();
    copied();
    copied_to_heap();
    copied_to_buffer();
    composed();
    by_own();
    intercepted();
    direct();
    closing();
    return last == NULL;
}
#endif
