/* Opens one library, shows what is loaded, closes it at a byte on stdin, and shows again. Exports a close as host programs
 * of plugins do, so that any destructor could call it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <unistd.h>

int opener_close(void *handle)
{
    return dlclose(handle);
}

static int show(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    if (info->dlpi_name[0])
        puts(info->dlpi_name);
    return 0;
}

static void show_all(void)
{
    dl_iterate_phdr(show, NULL);
    puts(".");
    fflush(stdout);
}

int main(int count, char **words)
{
    char byte;
    void *handle = count > 1 ? dlopen(words[1], RTLD_NOW) : NULL;
    if (!handle)
        return 2;
    printf("%p\n", handle);
    show_all();
    if (read(0, &byte, 1) != 1)
        return 3;
    dlclose(handle);
    show_all();
    _exit(0);
}
