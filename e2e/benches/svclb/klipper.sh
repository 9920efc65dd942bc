# klipper-lb's way, written anew for the comparison: one container's work for one port of a Service.
#
# Takes its environment (SRC_PORT, SRC_RANGES, DEST_PROTO, DEST_PORT, DEST_IPS), makes the same rules
# in the same order with the same calls of iptables, and waits on a fifo. What differs is the measure:
# BACKEND says which variant to use after the module list was asked as the original asks it, and a
# line on stdout tells that the rules are in place.
set -e
trap exit TERM INT

# The choice: nft if the module is loaded, else legacy. Here its answer is overruled.
if lsmod 2>/dev/null | grep -q nf_tables; then mode=nft; else mode=legacy; fi
mode=$BACKEND
for name in iptables iptables-save iptables-restore ip6tables; do
  ln -sf "/usr/sbin/xtables-$mode-multi" "$WORK/$name"
done
PATH=$WORK:$PATH

for range in ${SRC_RANGES//,/ }; do
  if echo "$range" | grep -Eq ":"; then command=ip6tables; else command=iptables; fi
  $command -t filter -I FORWARD -s "$range" -p "$DEST_PROTO" --dport "$DEST_PORT" -j ACCEPT
done

for ip in ${DEST_IPS//,/ }; do
  if echo "$ip" | grep -Eq ":"; then
    command=ip6tables host=$ip/128 to=[$ip]:$DEST_PORT switch=/proc/sys/net/ipv6/conf/all/forwarding
  else
    command=iptables host=$ip/32 to=$ip:$DEST_PORT switch=/proc/sys/net/ipv4/ip_forward
  fi
  if [ "$(cat $switch)" = 1 ]; then
    $command -t filter -A FORWARD -d "$host" -p "$DEST_PROTO" --dport "$DEST_PORT" -j DROP
    $command -t nat -I PREROUTING -p "$DEST_PROTO" --dport "$SRC_PORT" -j DNAT --to-destination "$to"
    $command -t nat -I POSTROUTING -d "$host" -p "$DEST_PROTO" -j MASQUERADE
  fi
done

echo "in place"
if [ ! -e "$WORK/pause" ]; then mkfifo "$WORK/pause"; fi
read -r _ <"$WORK/pause"
