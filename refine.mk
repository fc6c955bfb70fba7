# refine.mk: ./refine, the data pipeline in data/, included by the Makefile.
#
# What to know first: a C compiler is enough. Libraries of the distribution add to it; where one is
# missing, `make refine` says in a line what is left out and which package has it.

hash := \#
has = $(call links,$(hash)include <$(1)>\nint main(void) { return 0; },$(2))
XML_FLAGS := $(or $(shell pkg-config --cflags libxml-2.0 2>/dev/null),-I/usr/include/libxml2)
REFINE_ZSTD := $(call has,zstd.h,-lzstd)
REFINE_ZLIB := $(call has,zlib.h,-lz)
REFINE_ARCHIVE := $(call has,archive.h,-larchive)
REFINE_XML := $(call has,libxml/HTMLparser.h,$(XML_FLAGS) -lxml2)

REFINE_FLAGS := $(if $(REFINE_ZSTD),-DOC_ZSTD) $(if $(REFINE_ZLIB),-DOC_ZLIB) \
    $(if $(REFINE_ARCHIVE),-DOC_ARCHIVE) $(if $(REFINE_XML),-DOC_LIBXML2 $(XML_FLAGS))
REFINE_LIBS := $(if $(REFINE_ZSTD),-lzstd) $(if $(REFINE_ZLIB),-lz) \
    $(if $(REFINE_ARCHIVE),-larchive) $(if $(REFINE_XML),-lxml2)
REFINE_OBJECTS := $(patsubst %,lib/%.o,$(filter-out data/refine $(tokenizer_parts),\
    $(basename $(wildcard data/*.c))) data/texts $(sandbox_parts) $(run_parts) run)

build/data/refine.o build/asan/data/refine.o \
$(REFINE_OBJECTS:%=build/%) $(REFINE_OBJECTS:%=build/asan/%): private FLAGS += $(REFINE_FLAGS)

# What CPython is told to do, as numbers for a C array.
build/data/functions.inc: data/functions.py data/answers.py
	@mkdir -p $(@D)
	cat $^ | od -v -An -tu1 | sed 's/\([0-9][0-9]*\)/\1,/g' > $@.new
	mv $@.new $@
$(patsubst %,%/lib/data/parsers.o,build build/asan): build/data/functions.inc

refine: build/data/refine.o $(REFINE_OBJECTS:%=build/%) ## build refine and say what is left out
	$(CC) $(FLAGS) $(CFLAGS) -o $@ $^ $(REFINE_LIBS) $(LIBS)
	@$(if $(REFINE_ZSTD),,echo 'zstd: no, .zst files are refused; libzstd-dev has it')
	@$(if $(REFINE_ZLIB),,echo 'zlib: no, recall refuses .gz files; zlib1g-dev has it')
	@$(if $(REFINE_ARCHIVE),,echo 'libarchive: no, tar and zip are refused; libarchive-dev has it')
	@$(if $(REFINE_XML),,echo 'libxml2: no, recall reads no HTML; libxml2-dev has it')
build/asan/refine: build/asan/data/refine.o $(REFINE_OBJECTS:%=build/asan/%)
	$(CC) $(FLAGS) $(ASAN) -o $@ $^ $(REFINE_LIBS) $(LIBS)

ifneq ($(SANITIZED),)
SANITIZED += build/asan/refine
endif
