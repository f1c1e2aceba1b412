# The environment lives in .venv; a target makes it first if it is missing or out of date.
.PHONY: demo unit test test-all cluster-test proof extensions same-loss base-given bench fuzz lint
.PHONY: types protos
.PHONY: environment clean

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
STUBS := protos/teacher_pb2_grpc.py

# DeepSpeed builds its CPU extensions with the ninja of the environment: at the first use, or here
# before tests are timed.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Images of containers often set it. The tests start a thousand processes: each would compile all it
# imports of ours anew.
unexport PYTHONDONTWRITEBYTECODE

demo: environment protos
	@exec $(PYTHON) -m cluster.demo $(if $(DATA),--data "$(DATA)") $(if $(OUTPUT),--output "$(OUTPUT)")

# Budgets of time hold for two slow cores; on a busy machine widen them: make test BUDGETS=4
BUDGETS := 1
TESTS := $(PYTHON) -m pytest --budgets $(BUDGETS)
UNIT := $(TESTS) tests/unit -n 2 --dist loadfile

unit: environment protos
	@exec $(UNIT) -m "not everything"

test: extensions
	@$(PYTHON) -m ruff check .
	@$(UNIT) -m "not everything"
	@exec $(TESTS) tests/system -m "not everything"

# Three processes of pytest: most system tests wait for half of their time.
test-all: extensions
	@$(PYTHON) -m ruff check .
	@$(UNIT)
	@exec $(TESTS) tests/system -n 3 --dist loadfile --no-loadscope-reorder

# Hosts in namespaces, as root: a cluster from `up` to `down`, and beside it what loses hosts and links.
# A story ends where a part of it fails.
cluster-test: extensions
	@exec $(TESTS) -x tests/cluster -n 2 --dist loadfile --no-loadscope-reorder

# BASE is a revision; the working tree must compute what it computes, bit for bit.
same-loss: base-given environment protos
	@exec $(PYTHON) -m tests.same_loss "$(BASE)"

base-given:
	@test -n "$(BASE)" || { \
	  echo "error: BASE must be a revision, got none. Example: make same-loss BASE=HEAD" >&2; exit 1; }

# Teachers on hosts that come and go, students with the weights of a calm run: 7 minutes, as root.
proof: extensions
	@exec $(PYTHON) -m cluster.proof

bench: environment protos
	@exec $(PYTHON) -m cluster.bench all $(if $(DATA),--data "$(DATA)")

fuzz: environment protos
	@$(PYTHON) -m pip install --quiet -c constraints.txt -e '.[fuzz]'
	@exec $(PYTHON) -m tests.fuzz_codec -runs=5000000 -print_final_stats=1

lint: environment
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

types: environment protos
	@exec $(PYTHON) -m pyright

environment: $(INSTALLED)

protos: $(STUBS)

$(INSTALLED): pyproject.toml constraints.txt
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
	  { echo "error: a C++ compiler must be on the PATH, got none. Install g++ or clang." >&2; exit 1; }
	@python=; for candidate in python3 python3.13 python3.12 python3.11 python3.10; do \
	  if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	    python=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "error: Python 3.10 or newer must be on the PATH as python3, got none." >&2; exit 1; \
	fi; \
	$(PYTHON) -m pip --version >/dev/null 2>&1 || $$python -m venv --clear $(VENV)
	$(PYTHON) -m pip install --quiet -c constraints.txt -e '.[dev,eval]'
	@touch $@

# From the root, so that the stubs import each other as protos.teacher_pb2.
$(STUBS): protos/teacher.proto $(INSTALLED)
	$(PYTHON) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/teacher.proto
	@touch $@

# They lie in a cache of the user's, not in the environment: a look there takes a few seconds.
extensions: environment protos
	@DS_ACCELERATOR=cpu $(PYTHON) -m tests.support.build_extensions

clean:
	rm -rf $(VENV) *.egg-info protos/teacher_pb2.py protos/teacher_pb2.pyi $(STUBS)
	rm -rf .pytest_cache .ruff_cache .hypothesis
