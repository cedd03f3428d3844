/* Loads as many libraries as it is told, then opens and closes another one again and again, and says how long it took.
 * DIR LIBRARIES CYCLES OTHER HOLD: with HOLD the other one stays open, so that no close unloads anything. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void *load(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    void *handle = dlopen(path, RTLD_NOW);
    if (!handle)
        exit(1);
    return handle;
}

int main(int count, char **words)
{
    if (count != 6)
        return 2;
    int libraries = atoi(words[2]), cycles = atoi(words[3]);
    struct timespec begin, end;
    for (int number = 1; number < libraries; number++) {
        char name[32];
        snprintf(name, sizeof name, "lib%d.so", number);
        load(words[1], name);
    }
    if (atoi(words[5]))
        load(words[1], words[4]);
    puts("ready");
    fflush(stdout);
    getchar();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int cycle = 0; cycle < cycles; cycle++)
        dlclose(load(words[1], words[4]));
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("took %.9f\n", (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
    fflush(stdout);
    getchar();
    return 0;
}
