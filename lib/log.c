/* SPDX-License-Identifier: MIT */
/*
 * Messages for people, and the formatter behind them. Both run inside an
 * interposed malloc, in signal handlers and in threads of programs that are
 * not ours: hence no stdio (it allocates and locks), no locale, and one
 * write(2) a message, so that lines of several processes do not mix; not the
 * library's, which is a point of cancellation: locks may be held.
 */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

static char log_prefix[24] = "bluebridge";
static _Atomic int log_threshold = BB_LOG_WARN;
static _Atomic bool log_mute;

static const char *const level_name[] = { "error", "warning", "info", "debug" };

struct out {
	char *buf;
	unsigned int size; /* of buf, the end of the string included */
	unsigned int len;  /* that the whole text would have */
};

static void put(struct out *o, char c)
{
	if (o->len + 1 < o->size)
		o->buf[o->len] = c;
	o->len++;
}

struct spec {
	bool left, zero;
	int width, precision; /* precision -1: none */
	int size;	      /* 0 int, 1 long and size_t, 2 long long */
};

static void put_padded(struct out *o, const struct spec *s, const char *text, int len, bool number)
{
	int pad = s->width > len ? s->width - len : 0;
	bool zero = number && s->zero && !s->left;

	if (zero && len && *text == '-') {
		put(o, *text++);
		len--;
	}
	if (!s->left)
		for (; pad > 0; pad--)
			put(o, zero ? '0' : ' ');
	for (int i = 0; i < len; i++)
		put(o, text[i]);
	for (; pad > 0; pad--)
		put(o, ' ');
}

static void put_number(struct out *o, const struct spec *s, uint64_t v, unsigned int base, bool negative)
{
	char tmp[24];
	int i = sizeof(tmp);

	do {
		tmp[--i] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	if (negative)
		tmp[--i] = '-';
	put_padded(o, s, tmp + i, (int)sizeof(tmp) - i, true);
}

static void put_string(struct out *o, const struct spec *s, const char *text)
{
	int len = 0;

	if (!text)
		text = "(null)";
	while ((s->precision < 0 || len < s->precision) && text[len])
		len++;
	put_padded(o, s, text, len, false);
}

/* A number in the format, bounded so that no padding can run away. */
static int parse_count(const char **f)
{
	int n = 0;

	for (; **f >= '0' && **f <= '9'; (*f)++)
		if (n < 1000)
			n = n * 10 + (**f - '0');
	return n;
}

static const char *parse_spec(const char *f, struct spec *s, va_list *ap)
{
	*s = (struct spec){ .precision = -1 };
	for (; *f == '-' || *f == '0'; f++) {
		s->left |= *f == '-';
		s->zero |= *f == '0';
	}
	if (*f == '*') {
		s->width = va_arg(*ap, int);
		if (s->width < 0) {
			s->left = true;
			s->width = s->width < -1000 ? 1000 : -s->width;
		}
		f++;
	} else {
		s->width = parse_count(&f);
	}
	if (*f == '.') {
		f++;
		if (*f == '*') {
			s->precision = va_arg(*ap, int);
			f++;
		} else {
			s->precision = parse_count(&f);
		}
	}
	if (s->width > 1000)
		s->width = 1000;
	for (; *f == 'l' || *f == 'z' || *f == 'j' || *f == 't'; f++)
		s->size++;
	return f;
}

static int64_t arg_signed(const struct spec *s, va_list *ap)
{
	return s->size == 0 ? va_arg(*ap, int) : s->size == 1 ? va_arg(*ap, long) : va_arg(*ap, long long);
}

static uint64_t arg_unsigned(const struct spec *s, va_list *ap)
{
	return s->size == 0 ? va_arg(*ap, unsigned int) :
	       s->size == 1 ? va_arg(*ap, unsigned long) :
			      va_arg(*ap, unsigned long long);
}

int bb_vformat(char *buf, unsigned int size, const char *fmt, va_list ap_in)
{
	struct out o = { .buf = buf, .size = size };
	const int error = errno;
	struct spec s;
	va_list ap;
	int64_t d;

	va_copy(ap, ap_in);
	for (const char *f = fmt; *f; f++) {
		if (*f != '%') {
			put(&o, *f);
			continue;
		}
		f = parse_spec(f + 1, &s, &ap);
		switch (*f) {
		case 'd':
		case 'i':
			d = arg_signed(&s, &ap);
			put_number(&o, &s, d < 0 ? -(uint64_t)d : (uint64_t)d, 10, d < 0);
			break;
		case 'u':
			put_number(&o, &s, arg_unsigned(&s, &ap), 10, false);
			break;
		case 'x':
			put_number(&o, &s, arg_unsigned(&s, &ap), 16, false);
			break;
		case 'p':
			put(&o, '0');
			put(&o, 'x');
			put_number(&o, &s, (uintptr_t)va_arg(ap, void *), 16, false);
			break;
		case 's':
			put_string(&o, &s, va_arg(ap, const char *));
			break;
		case 'c':
			put(&o, (char)va_arg(ap, int));
			break;
		case 'm':
			put_string(&o, &s, strerrordesc_np(error) ?: "unknown error");
			break;
		case '%':
			put(&o, '%');
			break;
		default:
			/* What follows cannot be known: show the rest as it is. */
			put(&o, '%');
			for (; *f; f++)
				put(&o, *f);
			f--;
			break;
		}
	}
	va_end(ap);
	if (size)
		buf[o.len < size ? o.len : size - 1] = '\0';
	errno = error;
	return (int)o.len;
}

int bb_format(char *buf, unsigned int size, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = bb_vformat(buf, size, fmt, ap);
	va_end(ap);
	return n;
}

void bb_log_init(const char *prefix, enum bb_log_level level)
{
	const int error = errno;

	bb_format(log_prefix, sizeof(log_prefix), "%s", prefix);
	bb_log_level(level);
	/*
	 * A program that was started without a standard error will use number
	 * 2 for a file of its own: nothing of ours may ever land in it.
	 */
	atomic_store(&log_mute, fcntl(STDERR_FILENO, F_GETFD) < 0);
	errno = error;
}

void bb_log_level(enum bb_log_level level)
{
	atomic_store(&log_threshold, level < BB_LOG_ERROR ? BB_LOG_ERROR : level > BB_LOG_DEBUG ? BB_LOG_DEBUG : level);
}

void bb_log(enum bb_log_level level, const char *fmt, ...)
{
	const int error = errno;
	char line[LINE_MAX_BYTES];
	unsigned int len;
	va_list ap;
	int n;

	if ((int)level > atomic_load_explicit(&log_threshold, memory_order_relaxed) || atomic_load(&log_mute))
		return;
	len = (unsigned int)bb_format(line, sizeof(line), "%s: %s: ", log_prefix,
				      level_name[level <= BB_LOG_DEBUG ? level : BB_LOG_DEBUG]);
	errno = error;
	va_start(ap, fmt);
	n = bb_vformat(line + len, sizeof(line) - len - 1, fmt, ap);
	va_end(ap);
	if ((unsigned int)n >= sizeof(line) - len - 1) {
		len = sizeof(line) - 2;
		memcpy(line + len - 3, "...", 3);
	} else {
		len += (unsigned int)n;
	}
	/* Texts may come from other hosts or programs: no terminal escapes. */
	for (unsigned int i = 0; i < len; i++)
		if (((unsigned char)line[i] < 0x20 && line[i] != '\n' && line[i] != '\t') || line[i] == 0x7f)
			line[i] = '?';
	line[len++] = '\n';
	while (syscall(SYS_write, STDERR_FILENO, line, len) < 0 && errno == EINTR)
		;
	errno = error;
}
