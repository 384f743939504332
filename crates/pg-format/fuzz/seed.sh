#!/bin/bash
# Puts the golden files of all versions where the fuzz targets look for their first inputs.
set -euo pipefail
cd "$(dirname "$0")"
golden=../tests/golden
mkdir -p corpus/{wal_reader,record_content,history,backup_label,backup_manifest,control_file,segment_name}
for major in 14 15 16 17 18; do
  index=$((major - 14))
  for file in "$golden/$major"/*-0000*.zst; do
    name=$(basename "$file" .zst)
    # The version, the length of a piece, and three pages: enough for every kind of border.
    for page in 0 16 48; do
      { printf "\\x0$index\\x54"; zstd -dc "$file" | tail -c +$((page * 8192 + 1)) | head -c 24576; } \
        > "corpus/wal_reader/$major-$name-$page" || true
    done
  done
  cp "$golden/$major/backup_label" "corpus/backup_label/$major"
  cp "$golden/$major/pg_control" "corpus/control_file/$major"
  zstd -dc "$golden/$major/backup_manifest.zst" | head -c 3000 > "corpus/backup_manifest/$major" || true
  zstd -dc "$golden/$major/backup_manifest.zst" | tail -c 600 >> "corpus/backup_manifest/$major"
  { printf '\x03'; cat "$golden/$major/00000003.history"; } > "corpus/history/$major"
  for operation in '\x01\x80' '\x01\xa0' '\x01\x10' '\x01\xb0' '\x00\x70' '\x00\x00' '\x04\x20' '\x0a\x30' '\x02\x20'; do
    { printf "\\x0$index$operation\\x00"; head -c 90 /dev/zero; } > "corpus/record_content/$major-${operation//[^0-9a-f]/}"
  done
done
printf 000000010000001600000036 > corpus/segment_name/name
printf 16/36000028 > corpus/segment_name/lsn
printf '15.18 (Debian 15.18-0+deb12u1)' > corpus/segment_name/version
