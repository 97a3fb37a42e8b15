//! What the disk answers, command by command, as bytes.

use super::*;
use crate::device::{BlockDevice, MemoryDevice};
use crate::error::Kind;

const BLOCKS: u64 = 0x12345;

fn lun(block_bytes: u32, size: u64) -> Lun {
    Lun::new(block_bytes, "0123456789abcdef", "overlaybd//c.json", size, 64 << 20).unwrap()
}

fn disk(read_only: bool) -> MemoryDevice {
    if read_only {
        MemoryDevice::read_only(vec![0; BLOCKS as usize * 512])
    } else {
        MemoryDevice::new(BLOCKS * 512).unwrap()
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn ask(device: &dyn BlockDevice, hex: &str) -> std::result::Result<Request, Sense> {
    lun(512, device.size()).request(&Cdb::new(&bytes(hex)), device)
}

/// The answer to a command with parameter data, in hexadecimal digits.
fn answer(device: &dyn BlockDevice, hex: &str) -> String {
    match ask(device, hex) {
        Ok(Request::Answer(data)) => data.iter().map(|byte| format!("{byte:02x}")).collect(),
        other => panic!("{hex}: {other:?}"),
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_it_says_of_itself() {
    let (rw, ro) = (disk(false), disk(true));
    let standard = format!("000005021f000002{}", hex("LIO-ORG TCMU device     0002"));
    let serial = hex("0123456789abcdef");
    let t10 = format!("02010018{}{serial}", hex("LIO-ORG "));
    let naa = "01030010600140501234567 89abcdef000000000".replace(' ', "");
    let name = format!("02000011{}", hex("overlaybd//c.json"));
    let limits =
        format!("00b0003c 01ff0008 00000800 00000800 00000000 00200000 00000040 00000008 80000000 {:016x}", 65536);
    let rows = [
        ("120000002400", standard.as_str()),
        ("120000000500", &standard[..10]),
        ("120100ffff00", "00000006 008083b0b1b2"),
        ("120180ffff00", &format!("00800010{serial}")),
        ("120183ffff00", &format!("00830045{t10}{naa}{name}")),
        ("1201b0ffff00", &format!("{limits:0<137}")),
        ("1201b1ffff00", &format!("{:0<128}", "00b1003c0001")),
        ("1201b2ffff00", "00b20004 00e40200"),
        ("250000000000 00000000", "00012344 00000200"),
        (
            "9e10000000000000 0000 00000020 0000",
            &format!("{:0<64}", "0000000000012344 00000200 0000c0".replace(' ', "")),
        ),
        ("9e10000000000000 0000 0000000c 0000", "0000000000012344 00000200"),
        ("030000001200", "700000000000000a 00000000 00000000 0000"),
        ("030100001200", "7200000000000000"),
        ("a000 00000000 00000010 0000", "00000008 00000000 0000000000000000"),
        (
            "1a003f00ff00",
            "2f001000 010a00000000000000000000 0812040000000000000000000000000000000000 0a0a0210004000 00ffff0000",
        ),
        ("1a000800ff00", "17001000 0812040000000000000000000000000000000000"),
        (
            "1a007f00ff00",
            "2f001000 010a00000000000000000000 0812000000000000000000000000000000000000 0a0a0000000000000000 0000",
        ),
        ("5a000800000000 00ff00", "001a0010 00000000 0812040000000000000000000000000000000000"),
        ("5a000800000000 000600", "001a0010 0000"),
        ("a30c 03 28 0000 000000ff 0000", "0003000a 28f8ffffffff00ffff00"),
        ("a30c 03 9e 0010 000000ff 0000", "00030010 9e10 0000000000000000 ffffffff 0000"),
        ("a30c 01 8b 0000 000000ff 0000", "00010000"),
        ("a30c 03 9e 0012 000000ff 0000", "00030010 9e12 ffffffffffffffffffffffff 0000"),
        ("a30c 02 5e 0000 000000ff 0000", "00010000"),
    ];
    for (cdb, expected) in rows {
        assert_eq!(answer(&rw, cdb), expected.replace(' ', ""), "{cdb}");
    }
    let rows = [
        ("1a000800ff00", "17008000 0812000000000000000000000000000000000000"),
        ("1201b2ffff00", "00b20004 00000000"),
        ("9e10000000000000 0000 00000020 0000", &format!("{:0<64}", "000000000001234400000200")),
    ];
    for (cdb, expected) in rows {
        assert_eq!(answer(&ro, cdb), expected.replace(' ', ""), "{cdb}, read-only");
    }
    let all = answer(&rw, "a30c 00 00 0000 0000ffff 0000");
    assert_eq!((all.len(), &all[..24]), (2 * (4 + 30 * 8), "000000f00000000000000006"));
}

#[test]
fn what_commands_ask_of_the_device() {
    let rw = disk(false);
    let span = |lba: u64, blocks: u64| Span { offset: lba * 512, len: blocks * 512 };
    let write = |lba, blocks, durable| Request::Write { span: span(lba, blocks), durable };
    let same = |lba, blocks, unmap, zeros| Request::WriteSame { span: span(lba, blocks), unmap, zeros };
    let rows = [
        ("000000000000", Request::Nothing),
        ("080122450000", Request::Read(span(0x12245, 256))),
        ("080010000100", Request::Read(span(0x1000, 1))),
        ("2800 00012340 00 0005 00", Request::Read(span(0x12340, 5))),
        ("2818 00012340 00 0005 00", Request::Read(span(0x12340, 5))),
        ("2800 00012345 00 0000 00", Request::Read(span(0x12345, 0))),
        ("a800 00000010 00000020 0000", Request::Read(span(16, 32))),
        ("8800 0000000000000010 00000020 0000", Request::Read(span(16, 32))),
        ("0a0000100200", write(16, 2, false)),
        ("2a00 00000010 00 0002 00", write(16, 2, false)),
        ("2a08 00000010 00 0002 00", write(16, 2, true)),
        ("aa08 00000010 00000002 0000", write(16, 2, true)),
        ("8900 0000000000000010 000000 02 0000", Request::CompareAndWrite { span: span(16, 2), durable: false }),
        ("8908 0000000000000010 000000 00 0000", Request::CompareAndWrite { span: span(16, 0), durable: true }),
        ("8a18 0000000000000010 00000002 0000", write(16, 2, true)),
        ("2f00 00000010 00 0002 00", Request::Verify(span(16, 2), Compare::Nothing)),
        ("af02 00000010 00000002 0000", Request::Verify(span(16, 2), Compare::All)),
        ("8f06 0000000000000010 00000002 0000", Request::Verify(span(16, 2), Compare::Sector)),
        ("3500 00000000 00 0000 00", Request::Flush),
        ("9102 0000000000000010 00000002 0000", Request::Flush),
        ("1b0000000100", Request::Nothing),
        ("1b0000000000", Request::Flush),
        ("4200 00000000 00 0018 00", Request::Unmap(24)),
        ("4100 00000010 00 0002 00", same(16, 2, false, false)),
        ("4108 00000010 00 0002 00", same(16, 2, true, false)),
        ("9309 0000000000000010 00010000 0000", same(16, 65536, true, true)),
        ("151000001800", Request::ModeSelect { len: 24, long: false }),
        ("5510 00000000 00 0100 00", Request::ModeSelect { len: 256, long: true }),
    ];
    for (cdb, expected) in rows {
        assert_eq!(ask(&rw, cdb), Ok(expected), "{cdb}");
    }
}

#[test]
fn what_is_refused() {
    let (rw, ro) = (disk(false), disk(true));
    let field = Sense::INVALID_FIELD;
    let rows = [
        ("8900 0000000000012345 000000 01 0000", Sense::OUT_OF_RANGE),
        ("a305 00 00 0000 000000ff 0000", Sense::INVALID_COMMAND),
        ("4d000000000000000000", Sense::INVALID_COMMAND), // LOG SENSE
        ("7f000000000000180000000000000000", Sense::INVALID_COMMAND),
        ("e80010000100", Sense::INVALID_COMMAND),
        ("", field),
        ("2800", field),         // cut off
        ("120080002400", field), // a page without asking for pages
        ("1201c0002400", field),
        ("120200002400", field),
        ("250000000001 00000000", field),
        ("a000 03000000 00000010 0000", field),
        ("1a001c00ff00", field), // no such page
        ("1a000801ff00", field), // no such subpage
        ("1a00c800ff00", Sense::NO_SAVING),
        ("150000001800", field),
        ("151100001800", field),
        ("1b0000000200", field),
        ("1b0000001000", field),
        ("2820 00000000 00 0001 00", field), // protection information
        ("2a20 00000000 00 0001 00", field),
        ("2f04 00000000 00 0001 00", field),
        ("4201 00000000 00 0018 00", field),
        ("4100 00000010 00 0000 00", field), // no sectors
        ("4110 00000010 00 0001 00", field),
        ("9308 0000000000000000 00010001 0000", field), // more than was said to be allowed
        ("a30c 01 9e 0000 000000ff 0000", field),
        ("a30c 02 28 0000 000000ff 0000", field),
        ("a30c 07 28 0000 000000ff 0000", field),
        ("080122460000", Sense::OUT_OF_RANGE),
        ("2800 00012345 00 0001 00", Sense::OUT_OF_RANGE),
        ("2800 ffffffff 00 ffff 00", Sense::OUT_OF_RANGE),
        ("8a00 ffffffffffffffff 00000001 0000", Sense::OUT_OF_RANGE),
        ("8a00 ffffffffffffffff ffffffff 0000", Sense::OUT_OF_RANGE),
        ("3500 00012345 00 0001 00", Sense::OUT_OF_RANGE),
        ("9309 0000000000012345 00000001 0000", Sense::OUT_OF_RANGE),
    ];
    for (cdb, expected) in rows {
        assert_eq!(ask(&rw, cdb), Err(expected), "{cdb}");
    }
    for cdb in [
        "0a0000100200",
        "2a00 00000010 00 0002 00",
        "aa00 00000010 00000002 0000",
        "8a00 0000000000000010 00000002 0000",
        "4200 00000000 00 0018 00",
        "4108 00000010 00 0002 00",
        "9309 0000000000000010 00000002 0000",
    ] {
        assert_eq!(ask(&ro, cdb), Err(Sense::WRITE_PROTECTED), "{cdb}");
    }
    assert_eq!(ask(&ro, "3500 00000000 00 0000 00"), Ok(Request::Flush));
}

#[test]
fn mode_pages_can_be_said_again_and_not_changed() {
    let (device, lun) = (disk(false), lun(512, BLOCKS * 512));
    let select = |hex: &str, long| lun.mode_select(&bytes(hex), long, &device);
    let caching = "0812040000000000000000000000000000000000";
    assert_eq!(select(&format!("00000000{caching}"), false), Ok(()));
    assert_eq!(select(&format!("0000000000000000{caching}"), true), Ok(()));
    assert_eq!(select("", true), Ok(()));
    assert_eq!(
        select(&format!("00000000{}", caching.replace("0812 04".replace(' ', "").as_str(), "081200")), false),
        Err(Sense::INVALID_PARAMETER)
    );
    assert_eq!(select("000000080000000000000000", false), Err(Sense::INVALID_PARAMETER), "a block descriptor");
    assert_eq!(select("000000", false), Err(Sense::LIST_LENGTH));
    assert_eq!(select("0000000008", false), Err(Sense::LIST_LENGTH));
    assert_eq!(select("00000000081204", false), Err(Sense::LIST_LENGTH));
    assert_eq!(select("000000001c0a00000000000000000000", false), Err(Sense::INVALID_PARAMETER));
}

#[test]
fn large_sectors_and_large_disks() {
    let small = MemoryDevice::new(4096 * 10 + 512).unwrap();
    let large_sectors = lun(4096, small.size());
    let request = |hex: &str| large_sectors.request(&Cdb::new(&bytes(hex)), &small);
    assert_eq!(request("25000000000000000000"), Ok(Request::Answer(bytes("0000000900001000"))));
    assert_eq!(request("2800 00000009 00 0001 00"), Ok(Request::Read(Span { offset: 36864, len: 4096 })));
    assert_eq!(request("2800 0000000a 00 0001 00"), Err(Sense::OUT_OF_RANGE), "the rest is no sector");
    let Ok(Request::Answer(limits)) = request("1201b000ff00") else { panic!() };
    assert_eq!(limits[4..16], bytes("018000010000010000000100"));

    struct Large;
    impl BlockDevice for Large {
        fn size(&self) -> u64 {
            1 << 50
        }
        fn read_only(&self) -> bool {
            false
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> Result<()> {
            Ok(())
        }
        fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
            Ok(())
        }
        fn discard(&self, _: u64, _: u64) -> Result<()> {
            Ok(())
        }
        fn flush(&self) -> Result<()> {
            Ok(())
        }
        fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<crate::device::Extent>> {
            Ok(Vec::new())
        }
        fn is_ready(&self, _: u64, _: u64) -> bool {
            true
        }
    }
    assert_eq!(answer(&Large, "250000000000 00000000"), "ffffffff00000200", "the longer form has to be asked");
    assert_eq!(&answer(&Large, "9e10000000000000 0000 00000008 0000"), "000001ffffffffff");
}

#[test]
fn a_new_size_is_told_once() {
    let old = MemoryDevice::new(1 << 20).unwrap();
    let new = MemoryDevice::new(2 << 20).unwrap();
    let lun = lun(512, old.size());
    let (ready, inquiry) = (Cdb::new(&[0; 6]), Cdb::new(&[0x12, 0, 0, 0, 36, 0]));
    assert_eq!(lun.request(&ready, &old), Ok(Request::Nothing));
    assert!(lun.request(&inquiry, &new).is_ok());
    assert_eq!(lun.request(&ready, &new), Err(Sense::CAPACITY_CHANGED));
    assert_eq!(lun.request(&ready, &new), Ok(Request::Nothing));
}

#[test]
fn a_unit_that_nobody_could_tell_apart_is_refused() {
    let new = |block_bytes, serial: &str, size| Lun::new(block_bytes, serial, "n", size, 0).map(drop);
    assert!(new(512, "1", 512).is_ok());
    for (block_bytes, serial, size) in
        [(1024, "1", 4096), (0, "1", 4096), (512, "", 512), (512, "\n", 512), (512, "1", 511), (4096, "1", 512)]
    {
        assert_eq!(
            new(block_bytes, serial, size).unwrap_err().kind(),
            Kind::Invalid,
            "{block_bytes} {serial:?} {size}"
        );
    }
    assert!(new(512, &"1".repeat(129), 512).is_err());
    // A name of any characters and length fits its designator.
    let named = Lun::new(512, "1", &"ü".repeat(300), 512, 0).unwrap();
    let device = MemoryDevice::new(512).unwrap();
    let page = named.request(&Cdb::new(&bytes("120183ffff00")), &device);
    assert!(matches!(page, Ok(Request::Answer(data)) if data.ends_with(&[b'?'; 240])));
}

#[test]
fn what_is_stored_is_told_in_runs_of_sectors() {
    let device = disk(false);
    device.write_at(&[1; 4096], 4096).unwrap();
    device.write_at(&[1; 512], 16384 + 512).unwrap();
    let status = |block_bytes: u32, lba: u64, room: u32| {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (0x9e, 0x12);
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&room.to_be_bytes());
        let lun = lun(block_bytes, device.size());
        match lun.request(&Cdb::new(&cdb), &device) {
            Ok(Request::Status(span, room)) => lun.status(span, room, &device).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let run =
        |lba: u64, blocks: u32, how: u8| [&lba.to_be_bytes()[..], &blocks.to_be_bytes(), &[how, 0, 0, 0]].concat();
    let told = |runs: &[Vec<u8>]| [&[0, 0, 0, 4 + 16 * runs.len() as u8, 0, 0, 0, 0][..], &runs.concat()].concat();
    let last = BLOCKS as u32;
    let small = [run(0, 8, 1), run(8, 8, 0), run(16, 17, 1), run(33, 1, 0), run(34, last - 34, 1)];
    assert_eq!(status(512, 0, 1000), told(&small));
    assert_eq!(status(512, 8, 24), told(&[run(8, 8, 0)]));
    assert_eq!(status(512, 10, 40), told(&[run(10, 6, 0), run(16, 17, 1)]));
    assert_eq!(status(512, 0, 6), told(&[run(0, 8, 1)])[..6]);
    let large = [run(0, 1, 1), run(1, 1, 0), run(2, 2, 1), run(4, 1, 0), run(5, last / 8 - 5, 1)];
    assert_eq!(status(4096, 0, 1000), told(&large));
    assert_eq!(ask(&device, "9e12 0000000000012345 00000018 0000"), Err(Sense::OUT_OF_RANGE));
}
