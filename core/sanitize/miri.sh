# shellcheck shell=bash disable=SC2034
# Which tests of the core miri runs: read by run.sh. It interprets them, some thousand times slower than a processor.
#
# Here is what can be run at all: what is unsafe or atomic and needs nothing of outside, and parsers beside it. Not here:
# what calls C (lz4, zstd, libext2fs, and what digests or encrypts by ring, which is C and assembler), what locks,
# allocates or maps files (F_OFD_SETLK, fallocate, preadv2, mmap), which is caches and writable layers, what asks the
# kernel (io_uring, AIO, sockets, eventfd), and properties of so many or so large cases that they would take hours.
# All that runs under AddressSanitizer and ThreadSanitizer.
RUN=(
  apply::name
  blob::heal
  blob::switch
  cache::evict
  cache::sequence
  error::
  gzip::format
  lsmt::header
  lsmt::index
  lsmt::segment
  lsmt::uuid
  lsmt::warp
  metrics::
  serve::buffers
  serve::pool
  serve::report
  serve::tcmu
  tar::acl
  tar::block
  tar::pax
  trace::glob
  trace::recorder
  zfile::crc
  zfile::header
  zfile::table
)
# Of these, what is too large.
LEAVE=(
  a_gib_of_small_blocks
  a_recording_has_a_bound
  an_index_takes_sixteen_bytes_an_entry
  attributes_are_counted_as_they_come
  entries_that_make_no_sense_end_the_service
  it_is_a_disk
  merging_is_looking_from_above
  neighbours_are_one_record
  offsets_are_prefix_sums
  random_reads_fetch_nothing
  the_last_insert_wins
  what_is_stored_is_told_in_runs
)
