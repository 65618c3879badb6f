#!/usr/bin/env bash
# The V4L2 camera against a real kernel driver: Debian's kernel with its `vivid` module, in a virtual machine without
# acceleration. Needs Debian, qemu-system-x86, busybox-static, kmod and cpio; downloads a kernel package and installs nothing.
#   hal/tests/vivid/run.sh [linux-image-…-amd64]
set -euo pipefail
PATH=$PATH:/sbin:/usr/sbin
cd "$(dirname "$0")/../../.."
package=${1:-$(apt-cache search '^linux-image-[0-9.]*-[0-9]*-amd64$' | cut -d' ' -f1 | sort -V | tail -1)}
work=$PWD/target/vivid
root=$work/root
rm -rf "$root"
mkdir -p "$work" "$root"/{bin,dev,proc,sys,lib64,lib/x86_64-linux-gnu,modules}
[ -d "$work/$package" ] || (cd "$work" && apt-get download -qq "$package" && dpkg-deb -x "$package"_*.deb "$package")
version=${package#linux-image-}
cargo build --release -p endplate-hal --features serial,v4l2 --example capture
cp target/release/examples/capture "$root/bin/"
for library in $(ldd target/release/examples/capture | grep -o '/lib[^ ]*'); do cp "$library" "$root$library"; done
cp "$(command -v busybox)" "$root/bin/busybox"
# The module and what it stands on, in the order of loading.
modules=$work/$package/lib/modules/$version
depmod -b "$work/$package" "$version"
for module in $(modprobe -S "$version" -d "$work/$package" --show-depends vivid | sed -n 's/^insmod \([^ ]*\).*/\1/p'); do
  name=$(basename "$module"); name=${name%.xz}
  case $module in *.xz) xz -dc "$module" >"$root/modules/$name" ;; *) cp "$module" "$root/modules/$name" ;; esac
  echo "$name" >>"$root/modules/order"
done
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
for module in $(/bin/busybox cat /modules/order); do
  case $module in vivid.ko) options="n_devs=1 node_types=0x1 input_types=0x0" ;; *) options= ;; esac
  /bin/busybox insmod /modules/$module $options || echo "insmod $module failed"
done
/bin/busybox sleep 1
/bin/busybox ls /dev/video0
echo "== YUYV"; /bin/capture /dev/video0 320 180 yuyv 30 60
echo "== a format it does not offer"; /bin/capture /dev/video0 320 180 mjpeg 30 5
echo "== a size it does not offer"; /bin/capture /dev/video0 330 190 yuyv 30 5
echo "== no device"; /bin/capture /dev/video7 320 180 yuyv 30 5
echo "== done"
/bin/busybox poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip) >"$work/initramfs.gz"
timeout 300 qemu-system-x86_64 -m 512 -nographic -no-reboot -kernel "$work/$package/boot/vmlinuz-$version" \
  -initrd "$work/initramfs.gz" -append "console=ttyS0 quiet panic=-1" | tee "$work/log"
grep -q "60 frames of 320x180" "$work/log"
