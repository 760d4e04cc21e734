/* The launcher: puts itself under the limits of a sandbox, then becomes Node.js.
 *
 *   jail [-n] [-w] [-u UID] [-p PID] [-N NUMBER] [-r RESOURCE:SOFT:HARD]...
 *        [-R PATH]... [-X PATH]... -e PROGRAM -- ARGV0 [ARG]...
 *   jail --abi              print the kernel's version of Landlock, or minus the error's number
 *
 *   -n  neither Landlock nor the system call filter: resource limits only, for your own code
 *   -w  memory may be written and executed: for a program that compiles at run time
 *   -u  become this user and group, with no supplementary groups
 *   -p  the parent's process id; if that parent is gone, do not start
 *   -N  add this to our niceness: what else runs here, the supervisor above all, goes first
 *   -r  a resource limit, by its number; RLIMIT_NOFILE is required
 *   -R  files below PATH may be read
 *   -X  files below PATH may be read, executed and mapped as code
 *   -e  the program to become
 *
 * Every step must succeed, except for -N, which holds nobody. If one fails, its name goes to
 * stderr and the exit code is 126: nothing runs under only some of its limits.
 *
 * How it works. First we open what we need, as the user who started us. Then we change the user.
 * Then we give up everything else: we die with the parent, gain no privileges, and are held to the
 * resource limits and to Landlock (read only the given files, write none, no TCP, no signals to
 * and no abstract sockets of others). The system call filter comes last. We execute the program
 * through a descriptor whose number is just beyond RLIMIT_NOFILE: the execution closes it, no
 * descriptor can ever have that number again, and the filter allows execution through no other.
 * So nothing can be executed afterwards, not even by native code.
 *
 * Native code is held to the memory that the resource limits count. RLIMIT_DATA counts private
 * writable memory, but neither shared memory nor a stack that grows down, so the filter refuses
 * both. Memory that was written and then made read-only is no longer counted either: RLIMIT_AS
 * bounds that, and whatever else is only mapped. Without -w, only memory that was mapped from a
 * file can become code.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATHS_MAX 256
#define LIMITS_MAX 16
#define EXIT_NOT_HELD 126

extern char **environ;

/* ---- Landlock: its numbers are the same everywhere; the headers of older systems lack it. ---- */

#define SYS_LL_CREATE 444
#define SYS_LL_ADD 445
#define SYS_LL_RESTRICT 446
#define LL_VERSION 1u
#define LL_PATH_BENEATH 1
#define LL_EXECUTE (1u << 0)
#define LL_READ_FILE (1u << 2)
#define LL_READ_DIR (1u << 3)
#define LL_NET_BIND_AND_CONNECT 3u    /* from version 4 */
#define LL_SCOPE_SOCKETS_AND_SIGNALS 3u /* from version 6 */

struct ll_ruleset { uint64_t handled_fs, handled_net, scoped; };
struct ll_path { uint64_t allowed; int32_t fd; } __attribute__((packed));

static int landlock_version(void)
{
	long version = syscall(SYS_LL_CREATE, NULL, 0, LL_VERSION);
	return version < 0 ? -errno : (int)version;
}

/* Every right to files that a version knows: what is handled and not granted is denied. */
static uint64_t all_file_rights(int version)
{
	int bits = version >= 5 ? 16 : version >= 3 ? 15 : version >= 2 ? 14 : 13;
	return (1ull << bits) - 1;
}

/* ---- What was asked for. ---- */

static struct { int fd; uint64_t rights; } paths[PATHS_MAX];
static struct { int resource; struct rlimit limit; } limits[LIMITS_MAX];
static int path_count, limit_count, program = -1, exec_fd = -1;
static long uid = -1, parent = -1, niceness;
static int only_limits, writable_code;

static void __attribute__((noreturn)) fail(const char *step)
{
	dprintf(STDERR_FILENO, "jail: %s failed: %s\n", step, strerror(errno));
	_exit(EXIT_NOT_HELD);
}

static void need(int right, const char *step)
{
	if (!right)
		fail(step);
}

static int open_path(const char *path)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		fail(path);
	return fd;
}

static void add_path(const char *path, uint64_t rights)
{
	struct stat info;
	errno = E2BIG;
	need(path_count < PATHS_MAX, "-R, -X");
	paths[path_count].fd = open_path(path);
	need(fstat(paths[path_count].fd, &info) == 0, path);
	/* A right to read directories cannot be granted on a file. */
	if (!S_ISDIR(info.st_mode))
		rights &= ~(uint64_t)LL_READ_DIR;
	paths[path_count++].rights = rights;
}

static void add_limit(const char *text)
{
	unsigned long long soft = 0, hard = 0;
	int resource = 0, length = 0;
	errno = EINVAL;
	need(limit_count < LIMITS_MAX, "-r");
	need(sscanf(text, "%d:%llu:%llu%n", &resource, &soft, &hard, &length) == 3, "-r");
	need(!text[length], "-r");
	limits[limit_count].resource = resource;
	limits[limit_count].limit = (struct rlimit){ (rlim_t)soft, (rlim_t)hard };
	limit_count++;
	if (resource == RLIMIT_NOFILE)
		exec_fd = (int)hard;
}

static long number(const char *text, const char *option)
{
	char *end;
	long value = strtol(text, &end, 10);
	errno = EINVAL;
	need(*text && !*end && value > 0, option);
	return value;
}

static char **read_arguments(int argc, char **argv)
{
	int option;
	while ((option = getopt(argc, argv, "+nwu:p:N:r:R:X:e:")) != -1) {
		switch (option) {
		case 'n': only_limits = 1; break;
		case 'w': writable_code = 1; break;
		case 'u': uid = number(optarg, "-u"); break;
		case 'p': parent = number(optarg, "-p"); break;
		case 'N': niceness = number(optarg, "-N"); break;
		case 'r': add_limit(optarg); break;
		case 'R': add_path(optarg, LL_READ_FILE | LL_READ_DIR); break;
		case 'X': add_path(optarg, LL_READ_FILE | LL_READ_DIR | LL_EXECUTE); break;
		case 'e': program = open_path(optarg); break;
		default: errno = EINVAL; fail("reading the arguments");
		}
	}
	errno = EINVAL;
	need(program >= 0 && exec_fd > STDERR_FILENO && optind < argc, "reading the arguments");
	return argv + optind;
}

/* ---- The steps. ---- */

static void reserve_exec_fd(void)
{
	struct rlimit files;
	need(getrlimit(RLIMIT_NOFILE, &files) == 0, "reading RLIMIT_NOFILE");
	if (files.rlim_cur <= (rlim_t)exec_fd) {
		files.rlim_cur = files.rlim_max;
		need(setrlimit(RLIMIT_NOFILE, &files) == 0, "raising RLIMIT_NOFILE");
	}
	need(dup3(program, exec_fd, O_CLOEXEC) == exec_fd, "moving the program's descriptor");
}

static void become_user(void)
{
	need(setgroups(0, NULL) == 0, "leaving all groups");
	need(setresgid((gid_t)uid, (gid_t)uid, (gid_t)uid) == 0, "changing the group");
	need(setresuid((uid_t)uid, (uid_t)uid, (uid_t)uid) == 0, "changing the user");
}

static void bind_to_parent(void)
{
	/* After the change of user, which would undo it. If the parent died before this, we would
	 * get no signal. */
	need(prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0) == 0, "asking to die with the parent");
	errno = ESRCH;
	need(parent < 0 || getppid() == parent, "finding the parent");
}

static void set_limits(void)
{
	for (int n = 0; n < limit_count; n++)
		need(setrlimit(limits[n].resource, &limits[n].limit) == 0,
		     "setting a resource limit");
}

static void stand_back(void)
{
	/* A container's own filter may refuse it. Then the limits hold all the same. */
	if (nice((int)niceness) < 0)
		errno = 0;
}

static void restrict_files(void)
{
	int version = landlock_version();
	struct ll_ruleset handled = {
		all_file_rights(version),
		version >= 4 ? LL_NET_BIND_AND_CONNECT : 0,
		version >= 6 ? LL_SCOPE_SOCKETS_AND_SIGNALS : 0,
	};
	size_t size = version >= 6 ? 24 : version >= 4 ? 16 : 8;
	errno = -version;
	need(version > 0, "Landlock");
	int ruleset = (int)syscall(SYS_LL_CREATE, &handled, size, 0);
	need(ruleset >= 0, "making a Landlock ruleset");
	for (int n = 0; n < path_count; n++) {
		struct ll_path rule = { paths[n].rights, paths[n].fd };
		need(syscall(SYS_LL_ADD, ruleset, LL_PATH_BENEATH, &rule, 0) == 0,
		     "adding a Landlock rule");
	}
	need(syscall(SYS_LL_RESTRICT, ruleset, 0) == 0, "restricting with Landlock");
}

static void close_others(void)
{
	/* All except the three pipes and the program. A kernel with Landlock has close_range. */
	need(syscall(SYS_close_range, 3, exec_fd - 1, 0) == 0, "closing descriptors");
	need(syscall(SYS_close_range, exec_fd + 1, ~0u, 0) == 0, "closing descriptors");
}

/* ---- The system calls. ---- */

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the launcher knows x86-64 and aarch64"
#endif

#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define DENY(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOW(n) (offsetof(struct seccomp_data, args[n]))      /* little endian, both */
#define HIGH(n) (offsetof(struct seccomp_data, args[n]) + 4)
#define LOAD_AT(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (offset))
#define MASK(bits) BPF_STMT(BPF_ALU | BPF_AND | BPF_K, (bits))
#define IF(value, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (then), (otherwise))

#define CALL(name) IF(__NR_##name, 0, 1), ALLOW
#define REFUSE(name, error) IF(__NR_##name, 0, 1), DENY(error)
/* A call that is allowed with one of a few values of one argument. Afterwards the accumulator holds
 * the number of the call again. */
#define CALL_WITH_1(name, n, a, error) \
	IF(__NR_##name, 0, 4), LOAD_AT(LOW(n)), \
	IF((a), 0, 1), \
	ALLOW, DENY(error)
#define CALL_WITH_2(name, n, a, b, error) \
	IF(__NR_##name, 0, 5), LOAD_AT(LOW(n)), \
	IF((a), 1, 0), IF((b), 0, 1), \
	ALLOW, DENY(error)
#define CALL_WITH_3(name, n, a, b, c, error) \
	IF(__NR_##name, 0, 6), LOAD_AT(LOW(n)), \
	IF((a), 2, 0), IF((b), 1, 0), IF((c), 0, 1), \
	ALLOW, DENY(error)
#define CALL_WITH_5(name, n, a, b, c, d, e, error) \
	IF(__NR_##name, 0, 8), LOAD_AT(LOW(n)), \
	IF((a), 4, 0), IF((b), 3, 0), IF((c), 2, 0), IF((d), 1, 0), IF((e), 0, 1), \
	ALLOW, DENY(error)
#define CALL_WITH_6(name, n, a, b, c, d, e, f, error) \
	IF(__NR_##name, 0, 9), LOAD_AT(LOW(n)), \
	IF((a), 5, 0), IF((b), 4, 0), IF((c), 3, 0), IF((d), 2, 0), IF((e), 1, 0), IF((f), 0, 1), \
	ALLOW, DENY(error)

/* pthread_create of glibc, and of musl: threads, never processes. */
#define THREAD_OF_GLIBC 0x3d0f00
#define THREAD_OF_MUSL 0x7d0f00

static void restrict_calls(void)
{
	const uint32_t self = (uint32_t)getpid();
	/* How many instructions to skip, to the refusal. */
	const uint8_t refuse_code = writable_code ? 0 : 1;
	struct sock_filter filter[] = {
		LOAD(arch), IF(ARCHITECTURE, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		LOAD(nr),
#ifdef __x86_64__
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), DENY(ENOSYS), /* x32 */
#endif
		/* Memory, by the arguments. The kernel remembers which calls are allowed whatever
		 * their arguments. */
		IF(__NR_mmap, 0, 11),
		LOAD_AT(LOW(3)), MASK(MAP_GROWSDOWN), IF(MAP_GROWSDOWN, 7, 0),
		LOAD_AT(LOW(3)), MASK(MAP_SHARED | MAP_ANONYMOUS),
		IF(MAP_SHARED | MAP_ANONYMOUS, 4, 0),
		LOAD_AT(LOW(2)), MASK(PROT_WRITE | PROT_EXEC),
		IF(PROT_WRITE | PROT_EXEC, refuse_code, 0), ALLOW, DENY(EPERM),
		IF(__NR_mprotect, 0, 5),
		LOAD_AT(LOW(2)), MASK(PROT_EXEC), IF(PROT_EXEC, refuse_code, 0), ALLOW, DENY(EPERM),
		/* What Node.js does all the time. */
		CALL(read), CALL(write), CALL(readv), CALL(writev), CALL(futex), CALL(epoll_pwait),
		CALL(epoll_ctl), CALL(munmap), CALL(madvise), CALL(brk), CALL(mremap),
		CALL(clock_gettime), CALL(gettimeofday), CALL(getrusage), CALL(sched_yield),
		CALL(close), CALL(getpid), CALL(gettid), CALL(rt_sigprocmask), CALL(rt_sigaction),
		CALL(rt_sigreturn),
		/* And what it does at its start and end. */
		CALL(pread64), CALL(fstat), CALL(lseek), CALL(sigaltstack), CALL(getppid),
		CALL(getuid), CALL(geteuid), CALL(getgid), CALL(getegid), CALL(getresuid),
		CALL(getresgid), CALL(getgroups), CALL(exit), CALL(exit_group), CALL(epoll_create1),
		CALL(eventfd2), CALL(pipe2), CALL(getrandom), CALL(rseq), CALL(set_robust_list),
		CALL(set_tid_address), CALL(sysinfo), CALL(uname), CALL(sched_getaffinity),
		CALL(sched_getparam), CALL(sched_getscheduler), CALL(clock_getres),
		CALL(clock_nanosleep), CALL(nanosleep), CALL(times), CALL(restart_syscall),
		CALL(ppoll), CALL(membarrier), CALL(capget), CALL(getpriority), CALL(fadvise64),
		CALL(dup), CALL(dup3), CALL(timerfd_create), CALL(timerfd_settime), CALL(pselect6),
		/* Files, which Landlock decides about: to look, not to change. */
		CALL(openat), CALL(newfstatat), CALL(statx), CALL(faccessat), CALL(faccessat2),
		CALL(readlinkat), CALL(getcwd), CALL(getdents64), CALL(statfs), CALL(fstatfs),
#ifdef __NR_epoll_pwait2
		CALL(epoll_pwait2),
#endif
#ifdef __x86_64__
		CALL(open), CALL(stat), CALL(lstat), CALL(access), CALL(readlink),
		CALL(epoll_create), CALL(epoll_wait), CALL(poll), CALL(select), CALL(time),
		CALL(dup2), CALL(arch_prctl), CALL(getrlimit),
#endif
		/* By the arguments. */
		CALL_WITH_2(clone, 0, THREAD_OF_GLIBC, THREAD_OF_MUSL, EPERM),
		CALL_WITH_1(kill, 0, self, EPERM), CALL_WITH_1(tgkill, 0, self, EPERM),
		CALL_WITH_5(ioctl, 1, 0x5421 /* FIONBIO */, 0x5451 /* FIOCLEX */,
			    0x5450 /* FIONCLEX */, 0x5401 /* TCGETS */, 0x541b /* FIONREAD */,
			    ENOTTY),
		CALL_WITH_6(fcntl, 1, F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL,
			    EPERM),
		CALL_WITH_3(prctl, 0, PR_SET_NAME, PR_GET_NAME, 0x53564d41 /* PR_SET_VMA */, EPERM),
		/* prlimit64: only to read, that is with no new limit. */
		IF(__NR_prlimit64, 0, 6), LOAD_AT(LOW(2)), IF(0, 0, 3),
		LOAD_AT(HIGH(2)), IF(0, 0, 1), ALLOW, DENY(EPERM),
		/* execveat: through the one descriptor that is ours, and gone afterwards. */
		IF(__NR_execveat, 0, 6), LOAD_AT(LOW(0)), IF((uint32_t)exec_fd, 0, 3),
		LOAD_AT(LOW(4)), IF(AT_EMPTY_PATH, 0, 1), ALLOW, DENY(EPERM),
		/* Calls that programs try first and can do without; io_uring would bypass this
		 * filter. */
		REFUSE(clone3, ENOSYS), REFUSE(io_uring_setup, ENOSYS),
		REFUSE(io_uring_enter, ENOSYS), REFUSE(io_uring_register, ENOSYS),
		REFUSE(pkey_alloc, ENOSYS), REFUSE(pkey_mprotect, ENOSYS),
		REFUSE(close_range, ENOSYS), REFUSE(copy_file_range, ENOSYS),
		REFUSE(memfd_create, ENOSYS), REFUSE(inotify_init1, ENOSYS),
		/* Everything else: sockets, processes, files to write, users, mounts, keys, ... */
		DENY(EPERM),
	};
	struct sock_fprog compiled = { sizeof filter / sizeof *filter, filter };
	need(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &compiled) == 0,
	     "restricting system calls");
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--abi") == 0) {
		printf("%d\n", landlock_version());
		return 0;
	}
	char **command = read_arguments(argc, argv);
	reserve_exec_fd();
	if (uid > 0)
		become_user();
	errno = EPERM;
	need(only_limits || (getuid() != 0 && geteuid() != 0), "not being root");
	bind_to_parent();
	need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
	umask(077);
	if (!only_limits)
		restrict_files();
	close_others();
	set_limits();
	stand_back();
	if (!only_limits)
		restrict_calls();
	syscall(SYS_execveat, exec_fd, "", command, environ, AT_EMPTY_PATH);
	fail("executing the program");
}
