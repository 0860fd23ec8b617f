// Runs the CPU kernels on the cases of a file.
//
//   cpu_host CASES RESULTS
//   cpu_host --isas         JSON: size of lccl_cpu_params, and the table of instruction sets

#include "call.h"

#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HOST_SANITIZED 1
extern "C" void __sanitizer_set_death_callback(void (*callback)());
#else
#define HOST_SANITIZED 0
#endif

namespace
{

char where[512] = "nowhere";

//! Whatever ends the process, the run that it happened in is the last line.
void sayWhere()
{
    ssize_t const written = write(STDERR_FILENO, where, std::strlen(where));
    static_cast<void>(written);
}

#if !HOST_SANITIZED
void onSignal(int number)
{
    char const text[] = {'s', 'i', 'g', 'n', 'a', 'l', ' ', static_cast<char>('0' + number / 10),
        static_cast<char>('0' + number % 10), ' ', 'i', 'n', ' '};
    ssize_t const written = write(STDERR_FILENO, text, sizeof(text));
    static_cast<void>(written);
    sayWhere();
    _exit(3);
}
#endif

void watch()
{
#if HOST_SANITIZED
    __sanitizer_set_death_callback(sayWhere);
#else
    for (int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT})
    {
        std::signal(number, onSignal);
    }
#endif
}

void printIsas()
{
    std::printf("{\"params_bytes\": %zu, \"chosen\": %d, \"isas\": [", sizeof(lccl_cpu_params), lccl_cpu_choose());
    for (int32_t i = 0; i < lccl_cpu_isa_count(); ++i)
    {
        lccl_cpu_isa const& isa = *lccl_cpu_isa_at(i);
        std::printf(
            "%s{\"id\": %d, \"name\": \"%s\", \"vector_bytes\": %d, \"tile_rows\": %d, \"tile_columns\": %d, \"runs\": %d}",
            i > 0 ? ", " : "", isa.id, isa.name, isa.vector_bytes, isa.tile_rows, isa.tile_columns, lccl_cpu_isa_runs(isa.id));
    }
    bool const ends = lccl_cpu_isa_at(-1) == nullptr && lccl_cpu_isa_at(lccl_cpu_isa_count()) == nullptr;
    std::printf("], \"ends\": %s}\n", ends ? "true" : "false");
}

} // namespace

int main(int argc, char** argv)
{
    if (argc == 2 && std::strcmp(argv[1], "--isas") == 0)
    {
        printIsas();
        return 0;
    }
    if (argc != 3)
    {
        std::fprintf(stderr, "usage: cpu_host CASES RESULTS | cpu_host --isas\n");
        return 2;
    }
    watch();
    try
    {
        host::ResultFile file(argv[2]);
        for (host::Case const& layer : host::readCases(argv[1]))
        {
            std::vector<host::Result> results;
            for (host::Run const& run : layer.runs)
            {
                std::snprintf(where, sizeof(where), "%s, isa %d, threads %d, placement %d\n", layer.name.c_str(), run.isa,
                    run.threads, run.placement);
                results.push_back(host::call(layer, run));
            }
            file.add(results);
        }
        file.close();
        return 0;
    }
    catch (std::exception const& error)
    {
        std::fprintf(stderr, "%s: %s", error.what(), where);
        return 1;
    }
}
