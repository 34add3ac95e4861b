# SPDX-License-Identifier: MIT
# BlueBridge: make, make check, make chaos, make demo, make bench, make lint, make install.
# A source file is built because of the folder that it lies in; nothing is
# listed here by name.
V ?= 0
ifeq ($(V),0)
Q := @
say = @printf '  %-6s %s\n' '$(1)' '$(2)'
else
Q :=
say = @:
endif

B ?= build
PREFIX ?= /usr/local
DESTDIR ?=
CC ?= gcc
OPT ?= -O2 -g
SAN ?=

VERSION := 0.1.0
CPPFLAGS += -Iinclude -Ilib -D_GNU_SOURCE -DBB_VERSION='"$(VERSION)"'
WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wwrite-strings -Wno-unused-parameter
CFLAGS += -std=gnu11 $(OPT) $(WARN) -fno-strict-aliasing -fstack-protector-strong $(SAN)
DAEMON_LIBS := -lxxhash -lsodium -llz4 -ljansson -lseccomp -lrdmacm -libverbs -lpthread
LIB_LIBS := -lxxhash -lsodium

lib_src := $(wildcard lib/*.c)
preload_src := $(wildcard preload/*.c)
daemon_src := $(wildcard daemon/*.c daemon/*/*.c)
bbctl_src := $(wildcard tools/*.c)
bbload_src := $(wildcard bpf/*.c)
bbload_src := $(filter-out %.bpf.c,$(bbload_src))
bpf_src := $(wildcard bpf/*.bpf.c)
unit_src := $(wildcard tests/unit/test_*.c)
fuzz_src := $(wildcard tests/fuzz/fuzz_*.c)
apps_src := $(wildcard tests/apps/*.c)
so_src := $(wildcard tests/anomaly/*.c)
bench_src := $(wildcard scripts/bench/*.c)
policy_src := $(wildcard scripts/bench/policy/*.c)

# What libbb.so takes of lib/: no libc beyond what is safe inside malloc.
preload_lib := $(addprefix lib/,log.c options.c runs.c)

obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
pic = $(patsubst %.c,$(B)/obj/pic/%.o,$(1))

programs := $(B)/bbd $(B)/bbctl $(B)/bbload $(B)/libbb.so
unit_bin := $(patsubst tests/unit/%.c,$(B)/tests/%,$(unit_src))
fuzz_bin := $(patsubst tests/fuzz/%.c,$(B)/tests/%,$(fuzz_src))
apps_bin := $(patsubst tests/apps/%.c,$(B)/apps/%,$(apps_src))
so_bin := $(patsubst tests/anomaly/%.c,$(B)/tests/%.so,$(so_src))
bench_bin := $(patsubst scripts/bench/%.c,$(B)/bench/%,$(bench_src))

.PHONY: all tests check chaos demo bench lint install clean
.DELETE_ON_ERROR:
.SECONDARY:

all: $(programs) $(B)/bbrun $(B)/bbrack $(apps_bin) $(bench_bin)
tests: all $(unit_bin) $(fuzz_bin) $(so_bin)

$(B)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -Idaemon -MMD -MP -c -o $@ $<

$(B)/obj/pic/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$< [pic])
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -fvisibility=hidden -ftls-model=initial-exec -MMD -MP -c -o $@ $<

$(B)/lib.a: $(call obj,$(lib_src))
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/daemon.a: $(filter-out $(call obj,daemon/main.c),$(call obj,$(daemon_src)))
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/bbd: $(call obj,daemon/main.c) $(B)/daemon.a $(B)/lib.a
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS)

# The doctor asks what userfaultfd can do here as the pager would.
$(B)/bbctl: $(call obj,$(bbctl_src) daemon/pager/probe.c) $(B)/lib.a
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIB_LIBS) -ljansson

# Programs for the kernel, and each as a header that bbload and the tests load it from.
CLANG ?= clang
BPFTOOL ?= $(or $(shell PATH=$$PATH:/usr/sbin:/sbin command -v bpftool),bpftool)
BPF_CFLAGS := -target bpf -mcpu=v3 -O2 -g -std=gnu11 -Wall -Wextra -Werror -Wno-unused-parameter -Iinclude -Ibpf \
	-I/usr/include/$(shell $(CC) -dumpmachine)
skel := $(patsubst bpf/%.bpf.c,$(B)/bpf/%.skel.h,$(bpf_src))

$(B)/obj/bpf/%.bpf.o: bpf/%.bpf.c
	@mkdir -p $(@D)
	$(call say,CLANG,$<)
	$(Q)$(CLANG) $(BPF_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/bpf/%.skel.h: $(B)/obj/bpf/%.bpf.o
	@mkdir -p $(@D)
	$(call say,SKEL,$@)
	$(Q)$(BPFTOOL) gen skeleton $< name $* >$@ 2>$@.log || { cat $@.log; exit 1; }

$(call obj,$(bbload_src)): $(skel)
$(call obj,$(bbload_src)): CPPFLAGS += -I$(B)/bpf

$(B)/bbload: $(call obj,$(bbload_src)) $(B)/lib.a
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIB_LIBS) -lbpf -ljansson

# xxhash is header-only here (XXH_INLINE_ALL): libbb.so links libc alone.
$(B)/libbb.so: $(call pic,$(preload_src) $(preload_lib)) preload/libbb.map
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-z,defs,-z,now,--version-script=preload/libbb.map \
		-Wl,-soname,libbb.so -o $@ $(filter %.o,$^) -ldl -lpthread

$(B)/bbrun $(B)/bbrack: $(B)/%: scripts/%
	@mkdir -p $(@D)
	$(Q)ln -sf ../$< $@

$(B)/tests/test_%: $(B)/obj/tests/unit/test_%.o $(B)/daemon.a $(B)/lib.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS) -lcmocka

$(B)/tests/fuzz_%: $(B)/obj/tests/fuzz/fuzz_%.o $(B)/daemon.a $(B)/lib.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS)

# Those of the BPF programs load them by themselves.
bpf_unit := $(filter tests/unit/test_bpf_% tests/fuzz/fuzz_bpf%,$(unit_src) $(fuzz_src))
$(call obj,$(bpf_unit)): $(skel)
$(call obj,$(bpf_unit)): CPPFLAGS += -I$(B)/bpf
$(B)/tests/test_bpf_% $(B)/tests/fuzz_bpf: DAEMON_LIBS += -lbpf

# Preloaded into what is tested.
$(B)/tests/%.so: $(B)/obj/pic/tests/anomaly/%.o
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -shared -o $@ $^ -ldl

$(B)/apps/%: $(B)/obj/tests/apps/%.o
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -lpthread

# One that speaks to homes as bbd does.
$(B)/apps/bbrounds: $(B)/obj/tests/apps/bbrounds.o $(B)/daemon.a $(B)/lib.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS)

$(B)/bench/%: $(B)/obj/scripts/bench/%.o $(B)/lib.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIB_LIBS) -lpthread

# Clients of bbd's kind.
$(B)/bench/net_read $(B)/bench/table1: $(B)/bench/%: $(B)/obj/scripts/bench/%.o $(B)/daemon.a $(B)/lib.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS)

# A bbd that records its programs' faults.
$(call obj,scripts/bench/tracer.c): CPPFLAGS += -Iscripts/bench
$(B)/bench/tracer: $(call obj,scripts/bench/tracer.c daemon/main.c) $(B)/daemon.a $(B)/lib.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -Wl,--wrap=bb_fault_poll,--wrap=bb_program_read,--wrap=bb_fill_install -o $@ $^ $(DAEMON_LIBS)

# The policies that it replays, and their tests.
$(B)/bench/policy $(B)/tests/test_policy: $(call obj,$(policy_src))

check:
	scripts/check

# make chaos SECONDS=600 SEED=7
chaos: all
	tests/chaos/chaos --build '$(B)' $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

demo:
	scripts/demo

bench: all
	scripts/bench/run

lint:
	scripts/lint

install: all
	scripts/install '$(DESTDIR)' '$(PREFIX)' '$(B)'

clean:
	rm -rf $(B)

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
