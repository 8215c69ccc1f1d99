/* How many instructions and memory accesses has the guest executed at each mark?
 *
 *     gcc -O2 -fPIC -shared -fvisibility=hidden -o count.so count.c
 *     qemu-aarch64 -plugin ./count.so,out=marks.txt ...
 *
 * A TCG plugin for qemu 6 to 8 (API version 1), whose few functions are declared here so that no header of qemu is
 * needed. A mark is a system call of the unused number 32343: "KIND INSTRUCTIONS ACCESSES" is appended to the file,
 * KIND being its first argument, the others totals since the start. Both counters are shared by all threads; reads and
 * writes are counted together because qemu 7.2 mixes them up in inline counters.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef uint64_t word;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum op { ADD_U64 = 0 };
enum direction { READ_OR_WRITE = 3 };
enum { MARK = 32343 };

typedef void (*on_translated)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*on_syscall)(qemu_plugin_id_t, unsigned, int64_t, word, word, word, word, word, word, word, word);

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, on_translated);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum op, void *, uint64_t);
void qemu_plugin_register_vcpu_mem_inline(struct qemu_plugin_insn *, enum direction, enum op, void *, uint64_t);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, on_syscall);

EXPORTED int qemu_plugin_version = 1;

static uint64_t instructions, accesses;
static FILE *out;

/* Have the code of a block add to the counters whenever it runs. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    size_t size = qemu_plugin_tb_n_insns(block);

    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &instructions, size);
    for (size_t i = 0; i < size; i++)
        qemu_plugin_register_vcpu_mem_inline(qemu_plugin_tb_get_insn(block, i), READ_OR_WRITE, ADD_U64, &accesses, 1);
}

static void called(qemu_plugin_id_t id, unsigned vcpu, int64_t number, word kind, word b, word c, word d, word e,
                   word f, word g, word h)
{
    (void)id, (void)vcpu, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != MARK)
        return;
    fprintf(out, "%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", kind, instructions, accesses);
    fflush(out);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) || !(out = fopen(argv[0] + 4, "w"))) {
        fprintf(stderr, "count: cannot write its marks; give it out=FILE\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
