//! The bytes of the format: see [`super`].

/// With what our files begin: the version is the oldest that has all that is needed.
pub const MAGIC: &[u8] = b"REDIS0009";
/// The remark that says who has written a file.
pub const REMARK_PROGRAM: &[u8] = b"ringtable";
/// The remark with a checksum.
pub const REMARK_CHECKSUM: &[u8] = b"ringtable-crc";
/// The frequency of what is never evicted.
pub const FREQUENCY_UNEVICTABLE: u8 = 255;

/// What the first byte of an item says, where that is no type of a value.
pub mod opcode {
    pub const SLOT_IMPORT: u8 = 243;
    pub const SLOT_INFO: u8 = 244;
    pub const FUNCTION: u8 = 245;
    pub const MODULE_REMARK: u8 = 247;
    pub const IDLE: u8 = 248;
    pub const FREQUENCY: u8 = 249;
    pub const REMARK: u8 = 250;
    pub const SIZES: u8 = 251;
    pub const EXPIRY_MS: u8 = 252;
    pub const EXPIRY_S: u8 = 253;
    pub const DATABASE: u8 = 254;
    pub const END: u8 = 255;
}

/// The type of a value that is a string.
pub const STRING: u8 = 0;
