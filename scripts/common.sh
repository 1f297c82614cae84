# Functions of the scripts beside this file, which source it.

# fail TEXT: say in one line on standard error why this cannot go on; the exit code is 1.
fail() {
  echo "$0: $*" >&2
  exit 1
}

# version_of PYTHON: prints its version, like 3.11.2; fails without a word if it cannot be run.
version_of() {
  "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2> /dev/null
}

# need_packages PACKAGE...: install these packages of Debian; who may not is told to.
need_packages() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    fail "Debian's $* is needed and not installed: as root, apt-get install $*"
  fi
  echo "installing Debian's $* …"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# make_environment PYTHON FOLDER: a virtual environment with pip. One that is there already, and
# whose interpreter is gone, is made anew.
make_environment() {
  local version clear=
  version=$(version_of "$1")
  # Debian ships ensurepip, by which an environment gets its pip, apart from Python.
  "$1" -c 'import ensurepip' 2> /dev/null || need_packages "python${version%.*}-venv"
  [ ! -e "$2/pyvenv.cfg" ] || clear=--clear
  echo "making $2 with Python $version …"
  "$1" -m venv $clear "$2"
}

# pip_install PYTHON ARGUMENT...: `pip install`, with a line for each download, also in a pipe.
pip_install() {
  local python=$1 line
  shift
  "$python" -c 'import pip' 2> /dev/null || "$python" -m ensurepip > /dev/null
  PYTHONUNBUFFERED=1 "$python" -m pip install --disable-pip-version-check --progress-bar off "$@" |
    while IFS= read -r line; do
      case $line in
        *.metadata*) ;;
        *Downloading* | *"Building wheel"* | "Installing collected"*) echo "  ${line#"${line%%[! ]*}"}" ;;
      esac
    done
}
