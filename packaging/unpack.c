/* The head of the one-file jsbox: unpacks the archive appended to it, once, and executes the
 * program in it.
 *
 * The file is this program, a zstd archive, and a tail of TAIL bytes: "JSBOXPK1", the archive's
 * length in bytes, and its name, a hash of its contents. build.py writes it.
 *
 * The unpacked files stay in FOLDER/NAME. FOLDER is the first of these that belongs to this user or
 * root, that nobody else can write to, and that programs may be run from:
 *   $JSBOX_UNPACK_DIR         (then no other)
 *   $CACHE_DIRECTORY          (systemd's CacheDirectory=)
 *   /var/cache/jsbox          (written by root; others use it if it has this version)
 *   $XDG_CACHE_HOME/jsbox, $HOME/.cache/jsbox
 *   /tmp/jsbox-UID
 * They are written under another name and renamed, so that they are complete or absent. A running
 * program holds a shared lock on NAME/.in-use. When a new version is unpacked, other versions that
 * nobody holds are removed, and so are drafts of processes that were killed.
 *
 * If nothing can be run, the exit code is 126, with the reason on stderr.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <dirent.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "zstd.h"

#define MAGIC "JSBOXPK1"
#define NAME 16
#define TAIL (8 + 8 + NAME)
#define PROGRAM "jsbox"
#define IN_USE ".in-use"
#define DRAFT ".new-"

static char reason[PATH_MAX * 2];   /* why the last folder tried cannot be used */

static char draft[PATH_MAX];        /* the folder being unpacked */

static int remove_one(const char *path, const struct stat *found, int kind, struct FTW *where) {
	(void)found; (void)kind; (void)where;
	return remove(path), 0;
}

static void remove_all(const char *path) {
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void die(const char *format, ...) {
	va_list rest;
	if (draft[0]) remove_all(draft);
	va_start(rest, format);
	fputs("jsbox: ", stderr);
	vfprintf(stderr, format, rest);
	fputc('\n', stderr);
	exit(126);
}

static void join(char *to, const char *folder, const char *name) {
	if ((size_t)snprintf(to, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
		die("the path %s/%s is too long", folder, name);
}

/* ---- the archive ---- */

struct source {
	int fd;
	uint64_t left;              /* compressed bytes still to be read */
	ZSTD_DStream *stream;
	ZSTD_inBuffer in;
	char packed[1 << 17], plain[1 << 18];
	size_t at, end;             /* of `plain` */
};

static int fill(struct source *from) {
	from->at = from->end = 0;
	while (from->end == 0) {
		if (from->in.pos == from->in.size) {
			size_t want = sizeof from->packed;
			if (from->left < want) want = (size_t)from->left;
			ssize_t got = want ? read(from->fd, from->packed, want) : 0;
			if (got <= 0) die("this file is damaged: it ends too early; copy it again");
			from->left -= (uint64_t)got;
			from->in = (ZSTD_inBuffer){from->packed, (size_t)got, 0};
		}
		ZSTD_outBuffer out = {from->plain, sizeof from->plain, 0};
		size_t state = ZSTD_decompressStream(from->stream, &out, &from->in);
		if (ZSTD_isError(state))
			die("this file is damaged (%s); copy it again", ZSTD_getErrorName(state));
		from->end = out.pos;
	}
	return 0;
}

static void take_line(struct source *from, char *to, size_t size) {
	for (size_t i = 0; i < size; i++) {
		if (from->at == from->end) fill(from);
		to[i] = from->plain[from->at++];
		if (to[i] == '\n') { to[i] = 0; return; }
	}
	die("this file is damaged; copy it again");
}

static void take_file(struct source *from, const char *path, unsigned mode, uint64_t size) {
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0) die("%s cannot be written: %s", path, strerror(errno));
	while (size > 0) {
		if (from->at == from->end) fill(from);
		size_t some = from->end - from->at < size ? from->end - from->at : (size_t)size;
		ssize_t put = write(fd, from->plain + from->at, some);
		if (put < 0) die("%s cannot be written: %s", path, strerror(errno));
		from->at += (size_t)put;
		size -= (uint64_t)put;
	}
	if (close(fd) < 0) die("%s cannot be written: %s", path, strerror(errno));
}

/* Lines "D 755 path", "F 644 size path" followed by the bytes, "L target path"; "E" at the end.
 * No path begins with / or contains `..`. */
static void unpack(int fd, uint64_t length, const char *into) {
	static struct source from;
	from = (struct source){.fd = fd, .left = length, .stream = ZSTD_createDStream()};
	if (from.stream == NULL) die("there is not enough memory to unpack");
	if (mkdir(into, 0755) < 0) die("%s cannot be made: %s", into, strerror(errno));
	for (;;) {
		char line[PATH_MAX], word[PATH_MAX], path[PATH_MAX];
		unsigned mode;
		unsigned long long size;
		int at = 0;
		take_line(&from, line, sizeof line);
		if (strcmp(line, "E") == 0) break;
		if (sscanf(line, "D %o %n", &mode, &at) == 1 && at) {
			join(path, into, line + at);
			if (mkdir(path, mode) < 0)
				die("%s cannot be made: %s", path, strerror(errno));
		} else if (sscanf(line, "F %o %llu %n", &mode, &size, &at) == 2 && at) {
			join(path, into, line + at);
			take_file(&from, path, mode, size);
		} else if (sscanf(line, "L %s %n", word, &at) == 1 && at) {
			join(path, into, line + at);
			if (symlink(word, path) < 0)
				die("%s cannot be made: %s", path, strerror(errno));
		} else {
			die("this file is damaged; copy it again");
		}
	}
	ZSTD_freeDStream(from.stream);
}

/* ---- where it is unpacked ---- */

static int make_folder(const char *path) {
	/* Make its parent, too: ~/.cache may be missing. */
	char above[PATH_MAX];
	if (mkdir(path, 0755) == 0 || errno == EEXIST) return 0;
	snprintf(above, sizeof above, "%s", path);
	char *slash = strrchr(above, '/');
	if (errno != ENOENT || slash == NULL || slash == above) return -1;
	*slash = 0;
	if (mkdir(above, 0755) < 0 && errno != EEXIST) return -1;
	return mkdir(path, 0755) < 0 && errno != EEXIST ? -1 : 0;
}

/* Note why a folder cannot be used; return 0. */
static int unusable(const char *path, const char *why) {
	snprintf(reason, sizeof reason, "%s%s", path, why);
	return 0;
}

/* Note errno as the reason; return 0. */
static int failed(const char *path) {
	snprintf(reason, sizeof reason, "%s: %s", path, strerror(errno));
	return 0;
}

static int is_safe(const char *path) {
	struct stat found;
	struct statvfs volume;
	if (lstat(path, &found) < 0) return failed(path);
	if (!S_ISDIR(found.st_mode)) return unusable(path, " is not a folder");
	if ((found.st_uid != 0 && found.st_uid != geteuid()) || (found.st_mode & 022))
		return unusable(path, " belongs to, or can be written to by, others");
	if (statvfs(path, &volume) == 0 && (volume.f_flag & ST_NOEXEC))
		return unusable(path, " is on a volume from which no programs may be run (noexec)");
	return 1;
}

/* Hold the files unpacked in `place`, so that nobody removes them while this process lives.
 * Return 0 if they are absent. */
static int hold(const char *place) {
	char path[PATH_MAX];
	struct stat before, after;
	join(path, place, IN_USE);
	if (!is_safe(place)) return 0;
	int fd = open(path, O_RDONLY);   /* stays open in the program that is executed */
	if (fd < 0) return failed(path);
	if (flock(fd, LOCK_SH) == 0 && fstat(fd, &before) == 0 && stat(path, &after) == 0
			&& before.st_ino == after.st_ino)
		return 1;
	close(fd);
	return 0;
}

static void tidy(const char *folder, const char *name) {
	/* The caller has the folder's lock: every draft is of a process that is gone. */
	DIR *listing = opendir(folder);
	struct dirent *entry;
	char path[PATH_MAX], file[PATH_MAX];
	while (listing != NULL && (entry = readdir(listing)) != NULL) {
		int is_draft = strncmp(entry->d_name, DRAFT, strlen(DRAFT)) == 0;
		int is_version = strlen(entry->d_name) == NAME
				&& strspn(entry->d_name, "0123456789abcdef") == NAME;
		if (!is_draft && (!is_version || strcmp(entry->d_name, name) == 0)) continue;
		join(path, folder, entry->d_name);
		if (is_version) {
			join(file, path, IN_USE);
			int fd = open(file, O_RDONLY | O_CLOEXEC);
			int free = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
			if (free) unlink(file);   /* a process that starts now unpacks again */
			if (fd >= 0) close(fd);
			if (!free) continue;
		}
		remove_all(path);
	}
	if (listing != NULL) closedir(listing);
}

static int settle(const char *folder, const char *name, int self, uint64_t length, off_t start,
		char *place) {
	join(place, folder, name);
	if (access(place, F_OK) == 0 && is_safe(folder) && hold(place)) return 1;
	if (make_folder(folder) < 0) return failed(folder);
	if (!is_safe(folder)) return 0;
	char path[PATH_MAX], file[PATH_MAX];
	join(path, folder, ".lock");
	int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (lock < 0 || flock(lock, LOCK_EX) < 0) return failed(path);
	if (!hold(place)) {              /* no other process unpacked it meanwhile */
		tidy(folder, name);
		remove_all(place);
		snprintf(file, sizeof file, DRAFT "%ld", (long)getpid());
		join(draft, folder, file);
		if (lseek(self, start, SEEK_SET) < 0)
			die("this file cannot be read: %s", strerror(errno));
		unpack(self, length, draft);
		join(file, draft, IN_USE);
		int mark = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (mark < 0 || close(mark) < 0)
			die("%s cannot be written: %s", file, strerror(errno));
		if (rename(draft, place) < 0) die("%s cannot be made: %s", place, strerror(errno));
		draft[0] = 0;
		if (!hold(place)) die("%s was unpacked and cannot be used: %s", place, reason);
	}
	close(lock);
	return 1;
}

static int try_under(const char *folder, const char *below, const char *name, int self,
		uint64_t length, off_t start, char *place) {
	char path[PATH_MAX];
	if (folder == NULL || folder[0] != '/') return 0;
	if (below[0]) join(path, folder, below);
	else snprintf(path, sizeof path, "%s", folder);
	return settle(path, name, self, length, start, place);
}

static void find_place(const char *name, int self, uint64_t length, off_t start,
		char *place) {
	char path[PATH_MAX];
	const char *given = getenv("JSBOX_UNPACK_DIR");
	if (given != NULL && given[0]) {
		if (given[0] != '/') die("JSBOX_UNPACK_DIR=%s is not an absolute path", given);
		if (!try_under(given, "", name, self, length, start, place))
			die("JSBOX_UNPACK_DIR cannot be used: %s", reason);
		return;
	}
	/* With DynamicUser= it is a symbolic link made by systemd. */
	const char *cache = getenv("CACHE_DIRECTORY");
	if (cache != NULL && realpath(cache, path) != NULL
			&& try_under(path, "", name, self, length, start, place))
		return;
	if (geteuid() == 0 || access("/var/cache/jsbox", F_OK) == 0) {
		if (try_under("/var/cache/jsbox", "", name, self, length, start, place)) return;
	}
	if (try_under(getenv("XDG_CACHE_HOME"), "jsbox", name, self, length, start, place)) return;
	if (try_under(getenv("HOME"), ".cache/jsbox", name, self, length, start, place)) return;
	snprintf(path, sizeof path, "jsbox-%u", (unsigned)geteuid());
	if (try_under("/tmp", path, name, self, length, start, place)) return;
	die("there is no folder to unpack in: %s. Set JSBOX_UNPACK_DIR to one that only you can"
		" write to, on a volume that programs may be run from", reason);
}

int main(int argc, char **argv) {
	(void)argc;
	char tail[TAIL], name[NAME + 1] = "", place[PATH_MAX], program[PATH_MAX];
	uint64_t length;
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (self < 0) die("/proc/self/exe cannot be read: %s", strerror(errno));
	off_t end = lseek(self, 0, SEEK_END);
	if (end < TAIL || pread(self, tail, TAIL, end - TAIL) != TAIL
	    || memcmp(tail, MAGIC, 8) != 0)
		die("this file is damaged; copy it again");
	memcpy(&length, tail + 8, 8);
	memcpy(name, tail + 16, NAME);
	if (length > (uint64_t)(end - TAIL) || strspn(name, "0123456789abcdef") != NAME)
		die("this file is damaged; copy it again");
	mode_t mask = umask(022);
	find_place(name, self, length, end - TAIL - (off_t)length, place);
	umask(mask);
	join(program, place, PROGRAM);
	execv(program, argv);
	die("%s cannot be run: %s", program, strerror(errno));
}
