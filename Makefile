# The only commands that a person needs. `make` alone explains them.
.DEFAULT_GOAL := help
.PHONY: help demo kubectl down test bench images lint clean

# Of the demo's cluster.
NODES ?= 3
# Goes to the shell as it is, so that it may hold several arguments, quotes and pipes.
ARGS ?=
# Parts of the benchmark: pod, datapath, control, scale. All of them without it.
WHAT ?=

e2e := cargo run --quiet --locked --package svclb-e2e --bin svclb-e2e --

help:
	@echo 'svclb: Services of type LoadBalancer on the nodes'"'"' own addresses.'
	@echo
	@echo '  make demo [NODES=3]             svclb on a real cluster on this machine, as a guided tour'
	@echo '  make kubectl ARGS="get svc -A"  kubectl against that cluster (make -s: its output alone)'
	@echo '  make down                       that cluster ends; nothing of it is left'
	@echo
	@echo '  make images                     target/images/svclb-images.tar, for k3s, k3d and containerd'
	@echo '  make test                       lint, unit, packet, API-server and cluster tests'
	@echo '  make lint                       only formatting and lints'
	@echo '  make bench [WHAT=pod]           svclb beside what is used today: pod, datapath, control, scale'
	@echo '  make clean                      removes target/'
	@echo
	@echo 'Linux, root, Rust, Go 1.26, make and a C linker are needed. On Debian and Ubuntu the rest is'
	@echo 'installed when it is missing (e2e/packages.sh). Everything that is made lies under target/.'

# Not quiet: what is built the first time takes minutes, and cargo shows how far it is.
demo:
	@cargo run --locked --package svclb-e2e --bin svclb-e2e -- demo --nodes $(NODES)

kubectl:
	@$(e2e) kubectl -- $(ARGS)

down:
	@$(e2e) down

test:
	@e2e/test.sh

bench:
	@e2e/packages.sh
	cargo bench --locked --package svclb-e2e --bench svclb -- $(WHAT)

images:
	@images/build.sh svclb-images

lint:
	@e2e/lint.sh

clean:
	@if ls target/clusters/*/ >/dev/null 2>&1; then \
		echo 'Clusters are still there, see target/clusters; make down ends the demo'"'"'s.' >&2; exit 1; fi
	rm -rf target
