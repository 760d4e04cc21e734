/* What native code in a broken-out sandbox would try, one attempt for each run; the last argument
 * names it. Prints a number: bytes or threads that it got, or 0 if it was refused. Nothing that it
 * maps is touched, so that even where all of it succeeds the host does not notice.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PIECE (16ul << 20)
#define PIECES 256 /* 4 GiB */
#define THREADS 1500
#define READ PROT_READ
#define WRITE (PROT_READ | PROT_WRITE)
#define CODE (PROT_READ | PROT_EXEC)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

static void *map(int rights, int flags, int fd)
{
	return mmap(NULL, PIECE, rights, flags, fd, 0);
}

/* How much can be mapped. With `then`, each piece gets these rights afterwards. */
static unsigned long fill(int rights, int flags, int fd, int then)
{
	unsigned long pieces = 0;
	void *piece;
	while (pieces < PIECES && (piece = map(rights, flags, fd)) != MAP_FAILED) {
		if (then && mprotect(piece, PIECE, then))
			break;
		pieces++;
	}
	return pieces * PIECE;
}

static unsigned long turn(int before, int after)
{
	void *piece = map(before, PRIVATE, -1);
	return piece != MAP_FAILED && mprotect(piece, 4096, after) == 0;
}

/* Code that was mapped from our own file, made writable, and made code again. */
static unsigned long rewrite(void)
{
	uintptr_t page = (uintptr_t)rewrite & ~4095ul;
	/* Not ours, since we still run in it: a page of the C library's. */
	uintptr_t other = (uintptr_t)shmget & ~4095ul;
	if (other == page || mprotect((void *)other, 4096, WRITE))
		return 0;
	return mprotect((void *)other, 4096, CODE) == 0;
}

static void *wait_forever(void *unused)
{
	for (;;)
		sleep(1000);
	return unused;
}

static unsigned long threads(void)
{
	unsigned long count = 0;
	pthread_attr_t attributes;
	pthread_t thread;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 16 << 10);
	while (count < THREADS && pthread_create(&thread, &attributes, wait_forever, NULL) == 0)
		count++;
	return count;
}

static unsigned long processes(void)
{
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	return child > 0;
}

static unsigned long segment(void)
{
	int id = shmget(IPC_PRIVATE, PIECE, 0600);
	if (id >= 0)
		shmctl(id, IPC_RMID, NULL);
	return id >= 0;
}

static unsigned long attempt(const char *name)
{
#define IS(text) (strcmp(name, text) == 0)
	if (IS("shared"))
		return fill(WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (IS("shared, to read"))
		return fill(READ, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (IS("shared, of /dev/zero"))
		return fill(WRITE, MAP_SHARED | MAP_NORESERVE, open("/dev/zero", O_RDWR), 0);
	if (IS("memfd"))
		return syscall(SYS_memfd_create, "x", 0) >= 0;
	if (IS("segment"))
		return segment();
	if (IS("stack"))
		return fill(WRITE, PRIVATE | MAP_GROWSDOWN, -1, 0);
	if (IS("private"))
		return fill(WRITE, PRIVATE, -1, 0);
	if (IS("page tables"))
		return fill(READ, PRIVATE, -1, 0);
	if (IS("written, then to read"))
		return fill(WRITE, PRIVATE, -1, READ);
	if (IS("writable code"))
		return map(WRITE | PROT_EXEC, PRIVATE, -1) != MAP_FAILED;
	if (IS("written, then code"))
		return turn(WRITE, CODE);
	if (IS("written, then writable code"))
		return turn(WRITE, WRITE | PROT_EXEC);
	if (IS("nothing, then code"))
		return turn(PROT_NONE, PROT_EXEC);
	if (IS("code, rewritten"))
		return rewrite();
	if (IS("threads"))
		return threads();
	if (IS("processes"))
		return processes();
	return ~0ul;
}

int main(int argc, char **argv)
{
	printf("%lu\n", attempt(argv[argc - 1]));
	fflush(stdout);
	_exit(0);
}
