/* SPDX-License-Identifier: MIT */
/*
 * Text for sort: records in random order, the same for the same options.
 *
 *	gentext BYTES [RECORD [SEED]]
 *
 * Each line is RECORD bytes long (1024), begins with a random key of 16
 * hexadecimal digits and goes on with words. The key's digits decide nearly
 * every comparison, but all of the line is moved.
 */
#include "app.h"

static const char words[] = "a page of that memory has one name everywhere in the cluster and the network takes "
			    "the packet to whoever owns the page at that moment there is no directory to ask ";

static void make_record(char *out, size_t len, uint64_t *rng)
{
	static const char digit[] = "0123456789abcdef";
	const size_t period = sizeof(words) - 1;
	uint64_t key = next_random(rng);
	size_t at = (size_t)random_below(rng, period), n = 0;

	for (; n < 16; n++, key <<= 4)
		out[n] = digit[key >> 60];
	out[n++] = ' ';
	while (n < len - 1) {
		size_t part = period - at < len - 1 - n ? period - at : len - 1 - n;

		memcpy(out + n, words + at, part);
		n += part;
		at = 0;
	}
	out[n] = '\n';
}

int main(int argc, char **argv)
{
	uint64_t bytes, record = 1024, rng = 1;
	const size_t room = 4U << 20;
	size_t n = 0;
	char *buf;

	app_name = "gentext";
	if (argc < 2 || argc > 4) {
		fprintf(stderr, "usage: gentext BYTES [RECORD [SEED]]\n");
		return 2;
	}
	bytes = parse_size("BYTES", argv[1]);
	if (argc > 2)
		record = parse_size("RECORD", argv[2]);
	if (argc > 3)
		rng = parse_size("SEED", argv[3]);
	if (record < 20 || record > room)
		bad_option("RECORD", argv[2]);
	buf = malloc(room);
	if (!buf)
		fail("no memory");
	for (uint64_t done = 0; done + record <= bytes; done += record) {
		if (n + record > room) {
			if (fwrite(buf, 1, n, stdout) != n)
				fail("cannot write: %m");
			n = 0;
		}
		make_record(buf + n, record, &rng);
		n += record;
	}
	if (fwrite(buf, 1, n, stdout) != n || fflush(stdout))
		fail("cannot write: %m");
	free(buf);
	return 0;
}
