// Four libraries: opened twice and closed once, with a unique symbol, with TLS destructors due in two threads, closed.
#if defined(BUILD_libleak) || defined(BUILD_libclean)
extern "C" int use() { return 1; }
#elif defined(BUILD_libunique)
template <class T> struct Registry {
    static T *get()
    {
        static T value;
        return &value;
    }
};
extern "C" int use() { return *Registry<int>::get(); }
#elif defined(BUILD_libowed)
namespace {
struct Connection {
    int number = 7;
    ~Connection();
};
Connection::~Connection() { number = -1; }
thread_local Connection connection;
}
extern "C" int use() { return connection.number; }
#else
#include <cstdio>
#include <dlfcn.h>
#include <pthread.h>
#include <string>
#include <unistd.h>

static pthread_barrier_t used;

static void *open_library(const std::string &folder, const char *name)
{
    void *handle = dlopen((folder + name).c_str(), RTLD_NOW);
    if (!handle) {
        std::puts(dlerror());
        _exit(1);
    }
    reinterpret_cast<int (*)()>(dlsym(handle, "use"))();
    return handle;
}

static void *work(void *use)
{
    reinterpret_cast<int (*)()>(use)();
    pthread_barrier_wait(&used);
    pause();
    return nullptr;
}

extern "C" __attribute__((noinline)) void stop_here() { asm volatile(""); }

int main(int argc, char **argv)
{
    std::string folder = argv[0];
    folder.resize(folder.rfind('/') + 1);
    void *leak = open_library(folder, "libleak.so");
    open_library(folder, "libleak.so");
    void *unique = open_library(folder, "libunique.so");
    void *clean = open_library(folder, "libclean.so");
    void *owed = dlopen((folder + "libowed.so").c_str(), RTLD_NOW);
    pthread_t threads[2];
    pthread_barrier_init(&used, nullptr, 3);
    for (pthread_t &thread : threads)
        pthread_create(&thread, nullptr, work, dlsym(owed, "use"));
    pthread_barrier_wait(&used);
    for (void *handle : {leak, unique, clean, owed})
        dlclose(handle);
    stop_here();
    std::puts("ready");
    std::fflush(stdout);
    if (argc > 1)
        pause();
}
#endif
