/* Loads as many libraries as it is told, then opens and closes another one again and again, and says how long it took.
 * DIR LIBRARIES CYCLES OTHER HOLD THREADS: with HOLD the other one stays open, so that no close unloads anything; with
 * THREADS so many owe the other one a TLS destructor, by its function owe, so that every close leaves it there. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void (*owe)(void);
static pthread_barrier_t all_owe;

static void *load(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    void *handle = dlopen(path, RTLD_NOW);
    if (!handle)
        exit(1);
    return handle;
}

static void *debtor(void *unused)
{
    owe();
    pthread_barrier_wait(&all_owe);
    pause();
    return unused;
}

static void run_debtors(void *other, unsigned threads)
{
    pthread_attr_t small;
    pthread_t made;
    owe = (void (*)(void))dlsym(other, "owe");
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 16);
    pthread_barrier_init(&all_owe, NULL, threads + 1);
    for (unsigned number = 0; number < threads; number++)
        if (!owe || pthread_create(&made, &small, debtor, NULL))
            exit(1);
    pthread_barrier_wait(&all_owe);
}

int main(int count, char **words)
{
    if (count != 7)
        return 2;
    int libraries = atoi(words[2]), cycles = atoi(words[3]), threads = atoi(words[6]);
    struct timespec begin, end;
    for (int number = 1; number < libraries; number++) {
        char name[32];
        snprintf(name, sizeof name, "lib%d.so", number);
        load(words[1], name);
    }
    if (atoi(words[5]))
        load(words[1], words[4]);
    if (threads) {
        void *other = load(words[1], words[4]);
        run_debtors(other, threads);
        dlclose(other);
    }
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
    _exit(0);
}
