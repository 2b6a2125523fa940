# Two targets do everything on a fresh machine with Go: `make demo` and `make test`. What else they need they say.
.PHONY: all build demo test image manifests e2e conformance kube-smoke clean help
GO ?= go
BIN := bin/ringfence
ARCH ?= $(shell $(GO) env GOARCH)
VERSION ?= $(shell sed -n 's/^appVersion: *//p' deploy/chart/ringfence/Chart.yaml)
IMAGE ?= ringfence:$(VERSION)

all: build

help:           ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

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

manifests:      ## write the definitions of our kinds, and render the chart to deploy/ringfence.yaml
	@cd hack/tools && $(GO) run ./crd && $(GO) run ./chart -chart ../../deploy/chart/ringfence -o ../../deploy/ringfence.yaml

e2e:            ## the upstream NetworkPolicy e2e, on the cluster of KUBECONFIG or one that ../shared/kube brings up
	@./hack/kube/e2e

conformance:    ## the ClusterNetworkPolicy conformance suite, likewise; CHANNEL=standard for that channel
	@./hack/kube/conformance

kube-smoke:     ## a few specs of e2e, where ../shared/kube is built; says so where it is not
	@./hack/kube/smoke

clean:          ## remove what was built
	@rm -rf bin
