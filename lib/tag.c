/* SPDX-License-Identifier: MIT */
/*
 * The cluster's key and the tags made with it.
 *
 * The key file holds 32 random bytes. Everything in use is derived from them
 * (libsodium's crypto_kdf, context "bbridge1"), so that no two uses share a
 * key: number 1 is the SipHash key, 2 to 4 the XXH3 secret, 5 the name of the
 * key for people.
 */
#include "tag.h"

#include <bluebridge/siphash.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define KDF_CONTEXT "bbridge1"
enum { KDF_SIPHASH = 1, KDF_SECRET = 2, KDF_NAME = 5 };

_Static_assert(BB_KEY_BYTES == crypto_kdf_KEYBYTES, "the key file is a crypto_kdf key");
_Static_assert(sizeof(((struct bb_key *)0)->secret) == 3 * crypto_kdf_BYTES_MAX, "the secret is three subkeys");

int bb_key_derive(struct bb_key *k)
{
	uint8_t sub[16];
	uint64_t w[2];

	if (sodium_init() < 0)
		return -EIO;
	crypto_kdf_derive_from_key(sub, sizeof(sub), KDF_SIPHASH, KDF_CONTEXT, k->raw);
	memcpy(w, sub, sizeof(w));
	k->k0 = le64toh(w[0]);
	k->k1 = le64toh(w[1]);
	for (unsigned int i = 0; i < 3; i++)
		crypto_kdf_derive_from_key(k->secret + i * crypto_kdf_BYTES_MAX, crypto_kdf_BYTES_MAX, KDF_SECRET + i,
					   KDF_CONTEXT, k->raw);
	explicit_bzero(sub, sizeof(sub));
	explicit_bzero(w, sizeof(w));
	return 0;
}

void bb_key_id(const struct bb_key *k, char out[9])
{
	uint8_t sub[16];

	crypto_kdf_derive_from_key(sub, sizeof(sub), KDF_NAME, KDF_CONTEXT, k->raw);
	sodium_bin2hex(out, 9, sub, 4);
	explicit_bzero(sub, sizeof(sub));
}

/* Return: 0 or -errno; -EPERM where others may read it, -EINVAL for a wrong size. */
static int key_read(struct bb_key *k, const char *path)
{
	uint8_t buf[BB_KEY_BYTES + 1];
	struct stat st;
	ssize_t n;
	int fd, ret = 0;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st)) {
		ret = -errno;
		goto out;
	}
	if (!S_ISREG(st.st_mode)) {
		ret = -EINVAL;
		goto out;
	}
	if (st.st_mode & (S_IRWXG | S_IRWXO)) {
		ret = -EPERM;
		goto out;
	}
	n = read(fd, buf, sizeof(buf));
	if (n < 0)
		ret = -errno;
	else if (n != BB_KEY_BYTES)
		ret = -EINVAL;
	else
		memcpy(k->raw, buf, BB_KEY_BYTES);
	explicit_bzero(buf, sizeof(buf));
out:
	close(fd);
	return ret;
}

/* Makes the file whole under another name first: nobody ever sees a part of it. */
static int key_make(const char *path)
{
	uint8_t raw[BB_KEY_BYTES];
	char tmp[4096];
	int fd, ret = 0;

	if (snprintf(tmp, sizeof(tmp), "%s.XXXXXX", path) >= (int)sizeof(tmp))
		return -ENAMETOOLONG;
	fd = mkostemp(tmp, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	randombytes_buf(raw, sizeof(raw));
	if (fchmod(fd, S_IRUSR | S_IWUSR) || write(fd, raw, sizeof(raw)) != sizeof(raw) || fsync(fd) || link(tmp, path))
		ret = errno ? -errno : -EIO;
	explicit_bzero(raw, sizeof(raw));
	unlink(tmp);
	close(fd);
	return ret;
}

int bb_key_load(struct bb_key *k, const char *path)
{
	int ret, made = 0;

	if (sodium_init() < 0)
		return -EIO;
	ret = key_read(k, path);
	if (ret == -ENOENT) {
		ret = key_make(path);
		if (ret && ret != -EEXIST) /* another process was faster: its key holds */
			return ret;
		made = !ret;
		ret = key_read(k, path);
	}
	if (!ret)
		ret = bb_key_derive(k);
	return ret ? ret : made;
}

uint64_t bb_digest(const struct bb_key *k, const void *payload, size_t len)
{
	return len ? XXH3_64bits_withSecret(payload, len, k->secret, sizeof(k->secret)) : 0;
}

uint64_t bb_tag(const struct bb_key *k, const struct in6_addr *src, const struct in6_addr *dst, const struct bb_hdr *h,
		uint64_t digest)
{
	struct {
		struct in6_addr src, dst;
		struct bb_hdr h;
		uint64_t digest;
	} m = { *src, *dst, *h, htobe64(digest) };
	__u64 w[sizeof(m) / 8];

	_Static_assert(sizeof(m) == 80, "the tag covers 80 bytes");
	m.h.tag = 0;
	memcpy(w, &m, sizeof(w));
	for (unsigned int i = 0; i < sizeof(w) / 8; i++)
		w[i] = le64toh(w[i]);
	return bb_siphash(k->k0, k->k1, w, sizeof(w) / 8);
}
