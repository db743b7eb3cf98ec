# Shared settings of the VM lab. Everything big lives under $LABWORK (never in git).
LAB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${LABWORK:=${TMPDIR:-/tmp}/labwork}"
: "${LAB_KERNELS:=6.1}"             # series to prepare; the newest package of each is taken
: "${LAB_SUITE:=bookworm}"
: "${LAB_MIRROR:=$(apt-get indextargets --format "\$(REPO_URI)" "Created-By: Packages" | head -1)}"   # the mirror this machine already uses
# tools inside the guest (besides debootstrap's minbase)
: "${LAB_PKGS:=kmod,udev,e2fsprogs,fio,procps,python3-minimal,iproute2,socat}"
