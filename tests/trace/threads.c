/* Threads that open and close a few libraries at once; every close is of an open handle.
   ./threads ROUNDS THREADS leak|balanced LIB...: with leak, thread 3 never closes what it opens in round 7. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int rounds, leaks, count;
static char **names;

static void *work(void *argument)
{
    unsigned seed = (unsigned)(long)argument;
    for (int i = 0; i < rounds; i++) {
        void *handle = dlopen(names[rand_r(&seed) % count], RTLD_NOW);
        if (!handle)
            abort();
        if (!(leaks && argument == (void *)3 && i == 7))
            dlclose(handle);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    pthread_t threads[64];
    rounds = atoi(argv[1]);
    leaks = strcmp(argv[3], "leak") == 0;
    names = argv + 4;
    count = argc - 4;
    for (long i = 0; i < atoi(argv[2]); i++)
        pthread_create(&threads[i], NULL, work, (void *)(i + 1));
    for (long i = 0; i < atoi(argv[2]); i++)
        pthread_join(threads[i], NULL);
    puts("done");
    return 0;
}
