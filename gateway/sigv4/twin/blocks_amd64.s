// SHA-256 of two streams: FIPS 180-4, by the instructions made for it.

#include "textflag.h"

// The words of section 4.2.2, four to a step.
DATA words<>+0(SB)/8, $0x71374491428a2f98
DATA words<>+8(SB)/8, $0xe9b5dba5b5c0fbcf
DATA words<>+16(SB)/8, $0x59f111f13956c25b
DATA words<>+24(SB)/8, $0xab1c5ed5923f82a4
DATA words<>+32(SB)/8, $0x12835b01d807aa98
DATA words<>+40(SB)/8, $0x550c7dc3243185be
DATA words<>+48(SB)/8, $0x80deb1fe72be5d74
DATA words<>+56(SB)/8, $0xc19bf1749bdc06a7
DATA words<>+64(SB)/8, $0xefbe4786e49b69c1
DATA words<>+72(SB)/8, $0x240ca1cc0fc19dc6
DATA words<>+80(SB)/8, $0x4a7484aa2de92c6f
DATA words<>+88(SB)/8, $0x76f988da5cb0a9dc
DATA words<>+96(SB)/8, $0xa831c66d983e5152
DATA words<>+104(SB)/8, $0xbf597fc7b00327c8
DATA words<>+112(SB)/8, $0xd5a79147c6e00bf3
DATA words<>+120(SB)/8, $0x1429296706ca6351
DATA words<>+128(SB)/8, $0x2e1b213827b70a85
DATA words<>+136(SB)/8, $0x53380d134d2c6dfc
DATA words<>+144(SB)/8, $0x766a0abb650a7354
DATA words<>+152(SB)/8, $0x92722c8581c2c92e
DATA words<>+160(SB)/8, $0xa81a664ba2bfe8a1
DATA words<>+168(SB)/8, $0xc76c51a3c24b8b70
DATA words<>+176(SB)/8, $0xd6990624d192e819
DATA words<>+184(SB)/8, $0x106aa070f40e3585
DATA words<>+192(SB)/8, $0x1e376c0819a4c116
DATA words<>+200(SB)/8, $0x34b0bcb52748774c
DATA words<>+208(SB)/8, $0x4ed8aa4a391c0cb3
DATA words<>+216(SB)/8, $0x682e6ff35b9cca4f
DATA words<>+224(SB)/8, $0x78a5636f748f82ee
DATA words<>+232(SB)/8, $0x8cc7020884c87814
DATA words<>+240(SB)/8, $0xa4506ceb90befffa
DATA words<>+248(SB)/8, $0xc67178f2bef9a3f7
GLOBL words<>(SB), RODATA|NOPTR, $256

DATA turn<>+0(SB)/8, $0x0405060700010203
DATA turn<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL turn<>(SB), RODATA|NOPTR, $16

// X0 is what an instruction takes four rounds' words from, X15 turns the bytes
// of words, X13 is scratch. The first stream has its state in X1 and X2 and its
// message in X3 to X6, the second in X7 and X8, X9 to X12.

// LOAD brings 16 bytes of a message.
#define LOAD(off, p, m) \
	MOVOU off(p), m \
	PSHUFB X15, m

// ROUNDS does four rounds.
#define ROUNDS(k, m, s0, s1) \
	MOVO m, X0 \
	PADDL words<>+k(SB), X0 \
	SHA256RNDS2 X0, s0, s1 \
	PSHUFD $0x0e, X0, X0 \
	SHA256RNDS2 X0, s1, s0

// NEXT makes the four words that follow: m is this step's, before the one
// before it, next the one to come.
#define NEXT(m, before, next) \
	MOVO m, X13 \
	PALIGNR $4, before, X13 \
	PADDL X13, next \
	SHA256MSG2 m, next

// func blocks2(states *[2]state, a, b *byte, blocks int)
TEXT ·blocks2(SB), NOSPLIT, $64-32
	MOVQ states+0(FP), DI
	MOVQ a+8(FP), SI
	MOVQ b+16(FP), DX
	MOVQ blocks+24(FP), CX
	MOVOU turn<>(SB), X15
	MOVOU 0(DI), X1
	MOVOU 16(DI), X2
	MOVOU 32(DI), X7
	MOVOU 48(DI), X8

next:
	MOVOU X1, save-16(SP)
	MOVOU X2, save-32(SP)
	MOVOU X7, save-48(SP)
	MOVOU X8, save-64(SP)
	LOAD(0, SI, X3)
	ROUNDS(0, X3, X1, X2)
	LOAD(0, DX, X9)
	ROUNDS(0, X9, X7, X8)
	LOAD(16, SI, X4)
	ROUNDS(16, X4, X1, X2)
	SHA256MSG1 X4, X3
	LOAD(16, DX, X10)
	ROUNDS(16, X10, X7, X8)
	SHA256MSG1 X10, X9
	LOAD(32, SI, X5)
	ROUNDS(32, X5, X1, X2)
	SHA256MSG1 X5, X4
	LOAD(32, DX, X11)
	ROUNDS(32, X11, X7, X8)
	SHA256MSG1 X11, X10
	LOAD(48, SI, X6)
	ROUNDS(48, X6, X1, X2)
	NEXT(X6, X5, X3)
	SHA256MSG1 X6, X5
	LOAD(48, DX, X12)
	ROUNDS(48, X12, X7, X8)
	NEXT(X12, X11, X9)
	SHA256MSG1 X12, X11
	ROUNDS(64, X3, X1, X2)
	NEXT(X3, X6, X4)
	SHA256MSG1 X3, X6
	ROUNDS(64, X9, X7, X8)
	NEXT(X9, X12, X10)
	SHA256MSG1 X9, X12
	ROUNDS(80, X4, X1, X2)
	NEXT(X4, X3, X5)
	SHA256MSG1 X4, X3
	ROUNDS(80, X10, X7, X8)
	NEXT(X10, X9, X11)
	SHA256MSG1 X10, X9
	ROUNDS(96, X5, X1, X2)
	NEXT(X5, X4, X6)
	SHA256MSG1 X5, X4
	ROUNDS(96, X11, X7, X8)
	NEXT(X11, X10, X12)
	SHA256MSG1 X11, X10
	ROUNDS(112, X6, X1, X2)
	NEXT(X6, X5, X3)
	SHA256MSG1 X6, X5
	ROUNDS(112, X12, X7, X8)
	NEXT(X12, X11, X9)
	SHA256MSG1 X12, X11
	ROUNDS(128, X3, X1, X2)
	NEXT(X3, X6, X4)
	SHA256MSG1 X3, X6
	ROUNDS(128, X9, X7, X8)
	NEXT(X9, X12, X10)
	SHA256MSG1 X9, X12
	ROUNDS(144, X4, X1, X2)
	NEXT(X4, X3, X5)
	SHA256MSG1 X4, X3
	ROUNDS(144, X10, X7, X8)
	NEXT(X10, X9, X11)
	SHA256MSG1 X10, X9
	ROUNDS(160, X5, X1, X2)
	NEXT(X5, X4, X6)
	SHA256MSG1 X5, X4
	ROUNDS(160, X11, X7, X8)
	NEXT(X11, X10, X12)
	SHA256MSG1 X11, X10
	ROUNDS(176, X6, X1, X2)
	NEXT(X6, X5, X3)
	SHA256MSG1 X6, X5
	ROUNDS(176, X12, X7, X8)
	NEXT(X12, X11, X9)
	SHA256MSG1 X12, X11
	ROUNDS(192, X3, X1, X2)
	NEXT(X3, X6, X4)
	SHA256MSG1 X3, X6
	ROUNDS(192, X9, X7, X8)
	NEXT(X9, X12, X10)
	SHA256MSG1 X9, X12
	ROUNDS(208, X4, X1, X2)
	NEXT(X4, X3, X5)
	ROUNDS(208, X10, X7, X8)
	NEXT(X10, X9, X11)
	ROUNDS(224, X5, X1, X2)
	NEXT(X5, X4, X6)
	ROUNDS(224, X11, X7, X8)
	NEXT(X11, X10, X12)
	ROUNDS(240, X6, X1, X2)
	ROUNDS(240, X12, X7, X8)

	MOVOU save-16(SP), X0
	PADDL X0, X1
	MOVOU save-32(SP), X0
	PADDL X0, X2
	MOVOU save-48(SP), X0
	PADDL X0, X7
	MOVOU save-64(SP), X0
	PADDL X0, X8
	ADDQ $64, SI
	ADDQ $64, DX
	DECQ CX
	JNZ  next

	MOVOU X1, 0(DI)
	MOVOU X2, 16(DI)
	MOVOU X7, 32(DI)
	MOVOU X8, 48(DI)
	RET
