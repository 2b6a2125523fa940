# Two targets do everything on a fresh machine with Go: `make demo` and `make test`. What else they need they say.
.PHONY: all build demo test lint scenario bench clean help
GO ?= go
BIN := bin/ringfence

all: build

help:           ## this list
	@grep -E '^[a-z]+: .*##|^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

build:          ## build bin/ringfence
	@$(GO) build -trimpath -o $(BIN) ./cmd/ringfence

demo: build     ## boot the example shop in network namespaces, fence it, prove it with real packets (asks for root)
	@./hack/as-root $(BIN) lab examples/shop

test:           ## every test; kernel tests run where root and the kernel allow, and say so where not
	@./hack/test

clean:          ## remove what was built
	@rm -rf bin
