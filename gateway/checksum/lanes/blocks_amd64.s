// MD5 of eight streams side by side: RFC 1321, one lane of 32 bits a stream.
// Once with AVX-512, once with AVX2, which has half the registers, no rotation
// and no truth tables.

#include "textflag.h"

// The sines of RFC 1321, section 3.4.
DATA sines<>+0(SB)/8, $0xe8c7b756d76aa478
DATA sines<>+8(SB)/8, $0xc1bdceee242070db
DATA sines<>+16(SB)/8, $0x4787c62af57c0faf
DATA sines<>+24(SB)/8, $0xfd469501a8304613
DATA sines<>+32(SB)/8, $0x8b44f7af698098d8
DATA sines<>+40(SB)/8, $0x895cd7beffff5bb1
DATA sines<>+48(SB)/8, $0xfd9871936b901122
DATA sines<>+56(SB)/8, $0x49b40821a679438e
DATA sines<>+64(SB)/8, $0xc040b340f61e2562
DATA sines<>+72(SB)/8, $0xe9b6c7aa265e5a51
DATA sines<>+80(SB)/8, $0x02441453d62f105d
DATA sines<>+88(SB)/8, $0xe7d3fbc8d8a1e681
DATA sines<>+96(SB)/8, $0xc33707d621e1cde6
DATA sines<>+104(SB)/8, $0x455a14edf4d50d87
DATA sines<>+112(SB)/8, $0xfcefa3f8a9e3e905
DATA sines<>+120(SB)/8, $0x8d2a4c8a676f02d9
DATA sines<>+128(SB)/8, $0x8771f681fffa3942
DATA sines<>+136(SB)/8, $0xfde5380c6d9d6122
DATA sines<>+144(SB)/8, $0x4bdecfa9a4beea44
DATA sines<>+152(SB)/8, $0xbebfbc70f6bb4b60
DATA sines<>+160(SB)/8, $0xeaa127fa289b7ec6
DATA sines<>+168(SB)/8, $0x04881d05d4ef3085
DATA sines<>+176(SB)/8, $0xe6db99e5d9d4d039
DATA sines<>+184(SB)/8, $0xc4ac56651fa27cf8
DATA sines<>+192(SB)/8, $0x432aff97f4292244
DATA sines<>+200(SB)/8, $0xfc93a039ab9423a7
DATA sines<>+208(SB)/8, $0x8f0ccc92655b59c3
DATA sines<>+216(SB)/8, $0x85845dd1ffeff47d
DATA sines<>+224(SB)/8, $0xfe2ce6e06fa87e4f
DATA sines<>+232(SB)/8, $0x4e0811a1a3014314
DATA sines<>+240(SB)/8, $0xbd3af235f7537e82
DATA sines<>+248(SB)/8, $0xeb86d3912ad7d2bb
GLOBL sines<>(SB), RODATA|NOPTR, $256

// AVX-512: Y0 to Y15 hold the words of a block, Y16 to Y19 the state, Y20 is scratch,
// Y28 to Y31 are the state before the block. table is a round's function of
// (d, c, b) as a truth table. Only four instructions a step depend on the one
// before: what a lone stream's hash waits for is shared by eight.
#define STEP(a, b, c, d, word, sine, rotate, table) \
	VPADDD      word, a, a                  \
	VPADDD.BCST sines<>+sine(SB), a, a      \
	VMOVDQA32   d, Y20                      \
	VPTERNLOGD  table, b, c, Y20            \
	VPADDD      Y20, a, a                   \
	VPROLD      rotate, a, a                \
	VPADDD      b, a, a

// WORDS loads four words of all lanes from off, and turns them so that each of
// w0 to w3 has one word of eight lanes. Lanes i and i+4 share a register.
#define WORDS(off, w0, w1, w2, w3) \
	VMOVDQU32   off(R8), X21                \
	VINSERTI32X4 $1, off(R12), Y21, Y21     \
	VMOVDQU32   off(R9), X22                \
	VINSERTI32X4 $1, off(R13), Y22, Y22     \
	VMOVDQU32   off(R10), X23               \
	VINSERTI32X4 $1, off(R11), Y23, Y23     \
	VMOVDQU32   off(BX), X24                \
	VINSERTI32X4 $1, off(DX), Y24, Y24      \
	VPUNPCKLDQ  Y22, Y21, Y25               \
	VPUNPCKHDQ  Y22, Y21, Y26               \
	VPUNPCKLDQ  Y24, Y23, Y27               \
	VPUNPCKHDQ  Y24, Y23, Y20               \
	VPUNPCKLQDQ Y27, Y25, w0                \
	VPUNPCKHQDQ Y27, Y25, w1                \
	VPUNPCKLQDQ Y20, Y26, w2                \
	VPUNPCKHQDQ Y20, Y26, w3

// func blocks8AVX512(state *[4][8]uint32, data *[8]*byte, blocks int)
TEXT ·blocks8AVX512(SB), NOSPLIT, $0-24
	MOVQ state+0(FP), DI
	MOVQ data+8(FP), SI
	MOVQ blocks+16(FP), CX

	// Lanes 0 to 7 are at R8, R9, R10, BX, R12, R13, R11, DX.
	MOVQ 0(SI), R8
	MOVQ 8(SI), R9
	MOVQ 16(SI), R10
	MOVQ 24(SI), BX
	MOVQ 32(SI), R12
	MOVQ 40(SI), R13
	MOVQ 48(SI), R11
	MOVQ 56(SI), DX

	VMOVDQU32 0(DI), Y16
	VMOVDQU32 32(DI), Y17
	VMOVDQU32 64(DI), Y18
	VMOVDQU32 96(DI), Y19
	TESTQ CX, CX
	JLE   done

loop:
	WORDS(0, Y0, Y1, Y2, Y3)
	WORDS(16, Y4, Y5, Y6, Y7)
	WORDS(32, Y8, Y9, Y10, Y11)
	WORDS(48, Y12, Y13, Y14, Y15)
	VMOVDQA32 Y16, Y28
	VMOVDQA32 Y17, Y29
	VMOVDQA32 Y18, Y30
	VMOVDQA32 Y19, Y31

	STEP(Y16, Y17, Y18, Y19, Y0, 0, $7, $0xD8)
	STEP(Y19, Y16, Y17, Y18, Y1, 4, $12, $0xD8)
	STEP(Y18, Y19, Y16, Y17, Y2, 8, $17, $0xD8)
	STEP(Y17, Y18, Y19, Y16, Y3, 12, $22, $0xD8)
	STEP(Y16, Y17, Y18, Y19, Y4, 16, $7, $0xD8)
	STEP(Y19, Y16, Y17, Y18, Y5, 20, $12, $0xD8)
	STEP(Y18, Y19, Y16, Y17, Y6, 24, $17, $0xD8)
	STEP(Y17, Y18, Y19, Y16, Y7, 28, $22, $0xD8)
	STEP(Y16, Y17, Y18, Y19, Y8, 32, $7, $0xD8)
	STEP(Y19, Y16, Y17, Y18, Y9, 36, $12, $0xD8)
	STEP(Y18, Y19, Y16, Y17, Y10, 40, $17, $0xD8)
	STEP(Y17, Y18, Y19, Y16, Y11, 44, $22, $0xD8)
	STEP(Y16, Y17, Y18, Y19, Y12, 48, $7, $0xD8)
	STEP(Y19, Y16, Y17, Y18, Y13, 52, $12, $0xD8)
	STEP(Y18, Y19, Y16, Y17, Y14, 56, $17, $0xD8)
	STEP(Y17, Y18, Y19, Y16, Y15, 60, $22, $0xD8)

	STEP(Y16, Y17, Y18, Y19, Y1, 64, $5, $0xAC)
	STEP(Y19, Y16, Y17, Y18, Y6, 68, $9, $0xAC)
	STEP(Y18, Y19, Y16, Y17, Y11, 72, $14, $0xAC)
	STEP(Y17, Y18, Y19, Y16, Y0, 76, $20, $0xAC)
	STEP(Y16, Y17, Y18, Y19, Y5, 80, $5, $0xAC)
	STEP(Y19, Y16, Y17, Y18, Y10, 84, $9, $0xAC)
	STEP(Y18, Y19, Y16, Y17, Y15, 88, $14, $0xAC)
	STEP(Y17, Y18, Y19, Y16, Y4, 92, $20, $0xAC)
	STEP(Y16, Y17, Y18, Y19, Y9, 96, $5, $0xAC)
	STEP(Y19, Y16, Y17, Y18, Y14, 100, $9, $0xAC)
	STEP(Y18, Y19, Y16, Y17, Y3, 104, $14, $0xAC)
	STEP(Y17, Y18, Y19, Y16, Y8, 108, $20, $0xAC)
	STEP(Y16, Y17, Y18, Y19, Y13, 112, $5, $0xAC)
	STEP(Y19, Y16, Y17, Y18, Y2, 116, $9, $0xAC)
	STEP(Y18, Y19, Y16, Y17, Y7, 120, $14, $0xAC)
	STEP(Y17, Y18, Y19, Y16, Y12, 124, $20, $0xAC)

	STEP(Y16, Y17, Y18, Y19, Y5, 128, $4, $0x96)
	STEP(Y19, Y16, Y17, Y18, Y8, 132, $11, $0x96)
	STEP(Y18, Y19, Y16, Y17, Y11, 136, $16, $0x96)
	STEP(Y17, Y18, Y19, Y16, Y14, 140, $23, $0x96)
	STEP(Y16, Y17, Y18, Y19, Y1, 144, $4, $0x96)
	STEP(Y19, Y16, Y17, Y18, Y4, 148, $11, $0x96)
	STEP(Y18, Y19, Y16, Y17, Y7, 152, $16, $0x96)
	STEP(Y17, Y18, Y19, Y16, Y10, 156, $23, $0x96)
	STEP(Y16, Y17, Y18, Y19, Y13, 160, $4, $0x96)
	STEP(Y19, Y16, Y17, Y18, Y0, 164, $11, $0x96)
	STEP(Y18, Y19, Y16, Y17, Y3, 168, $16, $0x96)
	STEP(Y17, Y18, Y19, Y16, Y6, 172, $23, $0x96)
	STEP(Y16, Y17, Y18, Y19, Y9, 176, $4, $0x96)
	STEP(Y19, Y16, Y17, Y18, Y12, 180, $11, $0x96)
	STEP(Y18, Y19, Y16, Y17, Y15, 184, $16, $0x96)
	STEP(Y17, Y18, Y19, Y16, Y2, 188, $23, $0x96)

	STEP(Y16, Y17, Y18, Y19, Y0, 192, $6, $0x63)
	STEP(Y19, Y16, Y17, Y18, Y7, 196, $10, $0x63)
	STEP(Y18, Y19, Y16, Y17, Y14, 200, $15, $0x63)
	STEP(Y17, Y18, Y19, Y16, Y5, 204, $21, $0x63)
	STEP(Y16, Y17, Y18, Y19, Y12, 208, $6, $0x63)
	STEP(Y19, Y16, Y17, Y18, Y3, 212, $10, $0x63)
	STEP(Y18, Y19, Y16, Y17, Y10, 216, $15, $0x63)
	STEP(Y17, Y18, Y19, Y16, Y1, 220, $21, $0x63)
	STEP(Y16, Y17, Y18, Y19, Y8, 224, $6, $0x63)
	STEP(Y19, Y16, Y17, Y18, Y15, 228, $10, $0x63)
	STEP(Y18, Y19, Y16, Y17, Y6, 232, $15, $0x63)
	STEP(Y17, Y18, Y19, Y16, Y13, 236, $21, $0x63)
	STEP(Y16, Y17, Y18, Y19, Y4, 240, $6, $0x63)
	STEP(Y19, Y16, Y17, Y18, Y11, 244, $10, $0x63)
	STEP(Y18, Y19, Y16, Y17, Y2, 248, $15, $0x63)
	STEP(Y17, Y18, Y19, Y16, Y9, 252, $21, $0x63)

	VPADDD Y28, Y16, Y16
	VPADDD Y29, Y17, Y17
	VPADDD Y30, Y18, Y18
	VPADDD Y31, Y19, Y19

	ADDQ $64, R8
	ADDQ $64, R9
	ADDQ $64, R10
	ADDQ $64, BX
	ADDQ $64, R12
	ADDQ $64, R13
	ADDQ $64, R11
	ADDQ $64, DX
	DECQ CX
	JNZ  loop

	VMOVDQU32 Y16, 0(DI)
	VMOVDQU32 Y17, 32(DI)
	VMOVDQU32 Y18, 64(DI)
	VMOVDQU32 Y19, 96(DI)

done:
	VZEROUPPER
	RET

// AVX2: Y0 to Y3 are the state, Y4 and Y5 scratch, Y15 is all ones; the words of
// a block and the state before it are in the frame. What does not depend on b,
// which the step before has just made, is added first.
#define SUM(a, word, sine) \
	VPBROADCASTD sines<>+sine(SB), Y5 \
	VPADDD       word(SP), a, a       \
	VPADDD       Y5, a, a

#define ROTATE(a, b, left, right) \
	VPSLLD left, a, Y4  \
	VPSRLD right, a, a  \
	VPOR   Y4, a, a     \
	VPADDD b, a, a

#define F(a, b, c, d, word, sine, left, right) \
	SUM(a, word, sine) \
	VPXOR  c, d, Y4    \
	VPAND  b, Y4, Y4   \
	VPXOR  d, Y4, Y4   \
	VPADDD Y4, a, a    \
	ROTATE(a, b, left, right)

// The two parts of G have no bit in common: their sum is their union.
#define G(a, b, c, d, word, sine, left, right) \
	SUM(a, word, sine) \
	VPANDN c, d, Y4    \
	VPADDD Y4, a, a    \
	VPAND  b, d, Y4    \
	VPADDD Y4, a, a    \
	ROTATE(a, b, left, right)

#define H(a, b, c, d, word, sine, left, right) \
	SUM(a, word, sine) \
	VPXOR  c, d, Y4    \
	VPXOR  b, Y4, Y4   \
	VPADDD Y4, a, a    \
	ROTATE(a, b, left, right)

#define I(a, b, c, d, word, sine, left, right) \
	SUM(a, word, sine) \
	VPXOR  Y15, d, Y4  \
	VPOR   b, Y4, Y4   \
	VPXOR  c, Y4, Y4   \
	VPADDD Y4, a, a    \
	ROTATE(a, b, left, right)

// TURN is WORDS into the frame, at word.
#define TURN(off, word) \
	VMOVDQU     off(R8), X6            \
	VINSERTI128 $1, off(R12), Y6, Y6   \
	VMOVDQU     off(R9), X7            \
	VINSERTI128 $1, off(R13), Y7, Y7   \
	VMOVDQU     off(R10), X8           \
	VINSERTI128 $1, off(R11), Y8, Y8   \
	VMOVDQU     off(BX), X9            \
	VINSERTI128 $1, off(DX), Y9, Y9    \
	VPUNPCKLDQ  Y7, Y6, Y10            \
	VPUNPCKHDQ  Y7, Y6, Y11            \
	VPUNPCKLDQ  Y9, Y8, Y12            \
	VPUNPCKHDQ  Y9, Y8, Y13            \
	VPUNPCKLQDQ Y12, Y10, Y6           \
	VPUNPCKHQDQ Y12, Y10, Y7           \
	VPUNPCKLQDQ Y13, Y11, Y8           \
	VPUNPCKHQDQ Y13, Y11, Y9           \
	VMOVDQU     Y6, (word)(SP)         \
	VMOVDQU     Y7, (word+32)(SP)      \
	VMOVDQU     Y8, (word+64)(SP)      \
	VMOVDQU     Y9, (word+96)(SP)

// func blocks8AVX2(state *[4][8]uint32, data *[8]*byte, blocks int)
TEXT ·blocks8AVX2(SB), 0, $640-24
	MOVQ state+0(FP), DI
	MOVQ data+8(FP), SI
	MOVQ blocks+16(FP), CX

	// Lanes 0 to 7 are at R8, R9, R10, BX, R12, R13, R11, DX.
	MOVQ 0(SI), R8
	MOVQ 8(SI), R9
	MOVQ 16(SI), R10
	MOVQ 24(SI), BX
	MOVQ 32(SI), R12
	MOVQ 40(SI), R13
	MOVQ 48(SI), R11
	MOVQ 56(SI), DX

	VMOVDQU 0(DI), Y0
	VMOVDQU 32(DI), Y1
	VMOVDQU 64(DI), Y2
	VMOVDQU 96(DI), Y3
	VPCMPEQD Y15, Y15, Y15
	TESTQ CX, CX
	JLE   done

loop:
	TURN(0, 0)
	TURN(16, 128)
	TURN(32, 256)
	TURN(48, 384)
	VMOVDQU Y0, 512(SP)
	VMOVDQU Y1, 544(SP)
	VMOVDQU Y2, 576(SP)
	VMOVDQU Y3, 608(SP)

	F(Y0, Y1, Y2, Y3, 0, 0, $7, $25)
	F(Y3, Y0, Y1, Y2, 32, 4, $12, $20)
	F(Y2, Y3, Y0, Y1, 64, 8, $17, $15)
	F(Y1, Y2, Y3, Y0, 96, 12, $22, $10)
	F(Y0, Y1, Y2, Y3, 128, 16, $7, $25)
	F(Y3, Y0, Y1, Y2, 160, 20, $12, $20)
	F(Y2, Y3, Y0, Y1, 192, 24, $17, $15)
	F(Y1, Y2, Y3, Y0, 224, 28, $22, $10)
	F(Y0, Y1, Y2, Y3, 256, 32, $7, $25)
	F(Y3, Y0, Y1, Y2, 288, 36, $12, $20)
	F(Y2, Y3, Y0, Y1, 320, 40, $17, $15)
	F(Y1, Y2, Y3, Y0, 352, 44, $22, $10)
	F(Y0, Y1, Y2, Y3, 384, 48, $7, $25)
	F(Y3, Y0, Y1, Y2, 416, 52, $12, $20)
	F(Y2, Y3, Y0, Y1, 448, 56, $17, $15)
	F(Y1, Y2, Y3, Y0, 480, 60, $22, $10)

	G(Y0, Y1, Y2, Y3, 32, 64, $5, $27)
	G(Y3, Y0, Y1, Y2, 192, 68, $9, $23)
	G(Y2, Y3, Y0, Y1, 352, 72, $14, $18)
	G(Y1, Y2, Y3, Y0, 0, 76, $20, $12)
	G(Y0, Y1, Y2, Y3, 160, 80, $5, $27)
	G(Y3, Y0, Y1, Y2, 320, 84, $9, $23)
	G(Y2, Y3, Y0, Y1, 480, 88, $14, $18)
	G(Y1, Y2, Y3, Y0, 128, 92, $20, $12)
	G(Y0, Y1, Y2, Y3, 288, 96, $5, $27)
	G(Y3, Y0, Y1, Y2, 448, 100, $9, $23)
	G(Y2, Y3, Y0, Y1, 96, 104, $14, $18)
	G(Y1, Y2, Y3, Y0, 256, 108, $20, $12)
	G(Y0, Y1, Y2, Y3, 416, 112, $5, $27)
	G(Y3, Y0, Y1, Y2, 64, 116, $9, $23)
	G(Y2, Y3, Y0, Y1, 224, 120, $14, $18)
	G(Y1, Y2, Y3, Y0, 384, 124, $20, $12)

	H(Y0, Y1, Y2, Y3, 160, 128, $4, $28)
	H(Y3, Y0, Y1, Y2, 256, 132, $11, $21)
	H(Y2, Y3, Y0, Y1, 352, 136, $16, $16)
	H(Y1, Y2, Y3, Y0, 448, 140, $23, $9)
	H(Y0, Y1, Y2, Y3, 32, 144, $4, $28)
	H(Y3, Y0, Y1, Y2, 128, 148, $11, $21)
	H(Y2, Y3, Y0, Y1, 224, 152, $16, $16)
	H(Y1, Y2, Y3, Y0, 320, 156, $23, $9)
	H(Y0, Y1, Y2, Y3, 416, 160, $4, $28)
	H(Y3, Y0, Y1, Y2, 0, 164, $11, $21)
	H(Y2, Y3, Y0, Y1, 96, 168, $16, $16)
	H(Y1, Y2, Y3, Y0, 192, 172, $23, $9)
	H(Y0, Y1, Y2, Y3, 288, 176, $4, $28)
	H(Y3, Y0, Y1, Y2, 384, 180, $11, $21)
	H(Y2, Y3, Y0, Y1, 480, 184, $16, $16)
	H(Y1, Y2, Y3, Y0, 64, 188, $23, $9)

	I(Y0, Y1, Y2, Y3, 0, 192, $6, $26)
	I(Y3, Y0, Y1, Y2, 224, 196, $10, $22)
	I(Y2, Y3, Y0, Y1, 448, 200, $15, $17)
	I(Y1, Y2, Y3, Y0, 160, 204, $21, $11)
	I(Y0, Y1, Y2, Y3, 384, 208, $6, $26)
	I(Y3, Y0, Y1, Y2, 96, 212, $10, $22)
	I(Y2, Y3, Y0, Y1, 320, 216, $15, $17)
	I(Y1, Y2, Y3, Y0, 32, 220, $21, $11)
	I(Y0, Y1, Y2, Y3, 256, 224, $6, $26)
	I(Y3, Y0, Y1, Y2, 480, 228, $10, $22)
	I(Y2, Y3, Y0, Y1, 192, 232, $15, $17)
	I(Y1, Y2, Y3, Y0, 416, 236, $21, $11)
	I(Y0, Y1, Y2, Y3, 128, 240, $6, $26)
	I(Y3, Y0, Y1, Y2, 352, 244, $10, $22)
	I(Y2, Y3, Y0, Y1, 64, 248, $15, $17)
	I(Y1, Y2, Y3, Y0, 288, 252, $21, $11)

	VPADDD 512(SP), Y0, Y0
	VPADDD 544(SP), Y1, Y1
	VPADDD 576(SP), Y2, Y2
	VPADDD 608(SP), Y3, Y3

	ADDQ $64, R8
	ADDQ $64, R9
	ADDQ $64, R10
	ADDQ $64, BX
	ADDQ $64, R12
	ADDQ $64, R13
	ADDQ $64, R11
	ADDQ $64, DX
	DECQ CX
	JNZ  loop

	VMOVDQU Y0, 0(DI)
	VMOVDQU Y1, 32(DI)
	VMOVDQU Y2, 64(DI)
	VMOVDQU Y3, 96(DI)

done:
	VZEROUPPER
	RET
