#!/bin/sh
# First process of the test guest: file systems, modules, shares, network, then the agent.
# Kernel words that the harness gives: guest.modules=a,b guest.shares=tag:ro,tag:rw
# guest.network=ADDRESS/BITS,GATEWAY guest.hugepages=COUNT
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ TERM=dumb LC_ALL=C
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts /dev/shm
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs shm /dev/shm
busybox mount -t tmpfs run /run
busybox mkdir -p /run/lock/iscsi /run/nvme
busybox ln -sf /proc/self/fd /dev/fd
modules= shares= network= hugepages=
read -r words < /proc/cmdline
for word in $words; do
  case $word in
    guest.modules=*) modules=${word#*=} ;;
    guest.shares=*) shares=${word#*=} ;;
    guest.network=*) network=${word#*=} ;;
    guest.hugepages=*) hugepages=${word#*=} ;;
  esac
done
IFS=,
[ -z "$modules" ] || modules=,$modules
[ -z "$shares" ] || modules=$modules,9pnet_virtio,9p
[ -z "$network" ] || modules=$modules,virtio_net
modules=virtio_pci,virtio_console$modules
modprobe -a -q $modules
for share in $shares; do
  directory=/host/${share%:*}
  busybox mkdir -p "$directory"
  busybox mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,${share##*:}" \
    "${share%:*}" "$directory" || echo "init: no share ${share%:*}"
done
busybox ip link set lo up
if [ -n "$network" ]; then
  set -- $network
  busybox ip addr add "$1" dev eth0
  busybox ip link set eth0 up
  busybox ip route add default via "$2"
fi
if [ -n "$hugepages" ]; then
  echo "$hugepages" > /proc/sys/vm/nr_hugepages
  busybox mkdir -p /dev/hugepages
  busybox mount -t hugetlbfs none /dev/hugepages
fi
unset IFS modules shares network hugepages words word share directory
/bin/guest-agent
echo "init: the agent ended"
busybox reboot -f
