# Two targets do everything on a fresh machine with Go: `make demo` and `make test`. What else they need they say.
.PHONY: all build demo test image manifests clean help
GO ?= go
BIN := bin/ringfence
ARCH ?= $(shell $(GO) env GOARCH)
VERSION ?= $(shell sed -n 's/^appVersion: *//p' deploy/chart/ringfence/Chart.yaml)
IMAGE ?= ringfence:$(VERSION)

all: build

help:           ## this list
	@grep -E '^[a-z]+: .*##|^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

build:          ## build bin/ringfence
	@$(GO) build -trimpath -o $(BIN) ./cmd/ringfence

demo: build     ## boot the example shop in network namespaces, fence it, prove it with real packets (asks for root)
	@./hack/as-root $(BIN) lab examples/shop

test:           ## every test; kernel tests run where root and the kernel allow, and say so where not
	@./hack/test

image:          ## write bin/ringfence-image.tar for `ctr -n k8s.io images import`; IMAGE=name:tag ARCH=arm64
	@CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) $(GO) build -trimpath -ldflags='-s -w' -o bin/image/$(ARCH)/ringfence ./cmd/ringfence
	@cd hack/tools && $(GO) run ./image -name $(IMAGE) -arch $(ARCH) -version $(VERSION) \
		-binary ../../bin/image/$(ARCH)/ringfence -o ../../bin/ringfence-image.tar
	@echo "bin/ringfence-image.tar holds $(IMAGE) for $(ARCH)"

manifests:      ## render the chart to deploy/ringfence.yaml
	@cd hack/tools && $(GO) run ./chart -chart ../../deploy/chart/ringfence -o ../../deploy/ringfence.yaml

clean:          ## remove what was built
	@rm -rf bin
