/* A plugin of qemu's user mode: how often each translated block of a program has run.
 *
 * The blocks are in a file that another process may read at any time (scripts/instructions.py): a
 * head whose first number is how many there are, then for each its address, its number of
 * instructions and how often it has run. A number has 8 bytes, a head and a block have three.
 *
 * Debian has no header of the plugins' interface (docs/devel/tcg-plugins in qemu's sources), so
 * what is used of it is declared here.
 */

#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

struct qemu_plugin_tb;
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int,
                                          void *);

struct block {
    uint64_t address, instructions;
    _Atomic uint64_t runs;
};
struct blocks {
    _Atomic uint64_t count;
    uint64_t unused[2];
    struct block block[];
};

static struct blocks *blocks;
static uint64_t room;

static void run(unsigned cpu, void *block)
{
    (void)cpu;
    atomic_fetch_add_explicit(&((struct block *)block)->runs, 1, memory_order_relaxed);
}

static void translated(uint64_t plugin, struct qemu_plugin_tb *tb)
{
    (void)plugin;
    uint64_t number = atomic_fetch_add(&blocks->count, 1);
    if (number >= room) {
        fputs("instructions: more blocks than there is room for\n", stderr);
        abort();
    }
    struct block *block = &blocks->block[number];
    block->address = qemu_plugin_tb_vaddr(tb);
    block->instructions = qemu_plugin_tb_n_insns(tb);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, run, 0 /* registers are not read */, block);
}

/* The version of the interface: that of qemu 7.2. */
EXPORTED int qemu_plugin_version = 1;

/* Takes one argument, counts=PATH: a file with the size that it is to have. */
EXPORTED int qemu_plugin_install(uint64_t plugin, const void *qemu, int argc, char **argv)
{
    (void)qemu;
    int file = argc == 1 && !strncmp(argv[0], "counts=", 7) ? open(argv[0] + 7, O_RDWR) : -1;
    off_t size = file < 0 ? 0 : lseek(file, 0, SEEK_END);
    blocks = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (blocks == MAP_FAILED) {
        perror("instructions");
        return 1;
    }
    room = (size_t)size / sizeof(struct block) - 1;
    qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
    return 0;
}
