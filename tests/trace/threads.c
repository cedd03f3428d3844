/* Threads that open and close a few libraries at once; every close is of an open handle.
   ./threads ROUNDS THREADS leak|apart LIB...: thread 3 never closes what it opens in round 7; with apart, there is a
   namespace of its own before that. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int rounds, count;
static char **names;

static void *work(void *argument)
{
    unsigned seed = (unsigned)(long)argument;
    for (int i = 0; i < rounds; i++) {
        void *handle = dlopen(names[rand_r(&seed) % count], RTLD_NOW);
        if (!handle)
            abort();
        if (argument != (void *)3 || i != 7)
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
    if (strcmp(argv[3], "apart") == 0 && !dlmopen(LM_ID_NEWLM, argv[4], RTLD_NOW))
        return 3;
    names = argv + 4;
    count = argc - 4;
    for (long i = 0; i < atoi(argv[2]); i++)
        pthread_create(&threads[i], NULL, work, (void *)(i + 1));
    for (long i = 0; i < atoi(argv[2]); i++)
        pthread_join(threads[i], NULL);
    puts("done");
    return 0;
}
