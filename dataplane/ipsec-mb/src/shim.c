/*
 * What the crate needs of the library. Its structures, their sizes and the function pointers in them stay on this side:
 * Rust sees opaque octets, and struct kf_packet.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <intel-ipsec-mb.h>

/* The same in ffi.rs. */
#define KF_BURST 64
#define KF_GCM_KEY 1024
#define KF_ICV 32

_Static_assert(sizeof(struct gcm_key_data) <= KF_GCM_KEY, "room for a key of AES-GCM");
_Static_assert(_Alignof(struct gcm_key_data) <= 64, "alignment of a key of AES-GCM");
_Static_assert(KF_BURST <= IMB_MAX_BURST_SIZE, "jobs of a burst");

/* An ESP packet. What is enciphered begins at `body`; behind `len` octets stands the ICV. */
struct kf_packet {
    uint8_t *data;
    uint32_t len;
    uint32_t body;
    uint32_t icv_len;
    uint8_t iv[16];
    uint8_t tag[KF_ICV];
};

struct kf_manager {
    IMB_MGR *mgr;
    IMB_JOB jobs[KF_BURST];
};

void kf_manager_free(struct kf_manager *manager)
{
    if (manager != NULL && manager->mgr != NULL)
        free_mb_mgr(manager->mgr);
    free(manager);
}

/* NULL if the processor has less than the implementations that are worth it need, or if they fail their own test. */
struct kf_manager *kf_manager_new(void)
{
    const uint64_t wanted = IMB_FEATURE_AVX512_SKX | IMB_FEATURE_VAES | IMB_FEATURE_VPCLMULQDQ |
                            IMB_FEATURE_SELF_TEST | IMB_FEATURE_SELF_TEST_PASS;
    IMB_ARCH arch = IMB_ARCH_NONE;
    struct kf_manager *manager = calloc(1, sizeof *manager);

    if (manager == NULL)
        return NULL;
    manager->mgr = alloc_mb_mgr(0);
    if (manager->mgr != NULL) {
        init_mb_mgr_auto(manager->mgr, &arch);
        if (arch == IMB_ARCH_AVX512 && imb_get_errno(manager->mgr) == 0 &&
            (manager->mgr->features & wanted) == wanted)
            return manager;
    }
    kf_manager_free(manager);
    return NULL;
}

void kf_gcm_key(struct kf_manager *manager, const uint8_t *key, size_t key_len, struct gcm_key_data *out)
{
    switch (key_len) {
    case IMB_KEY_128_BYTES:
        IMB_AES128_GCM_PRE(manager->mgr, key, out);
        break;
    case IMB_KEY_192_BYTES:
        IMB_AES192_GCM_PRE(manager->mgr, key, out);
        break;
    default:
        IMB_AES256_GCM_PRE(manager->mgr, key, out);
        break;
    }
}

void kf_aes_keys(struct kf_manager *manager, const uint8_t *key, size_t key_len, void *encrypting, void *decrypting)
{
    switch (key_len) {
    case IMB_KEY_128_BYTES:
        IMB_AES_KEYEXP_128(manager->mgr, key, encrypting, decrypting);
        break;
    case IMB_KEY_192_BYTES:
        IMB_AES_KEYEXP_192(manager->mgr, key, encrypting, decrypting);
        break;
    default:
        IMB_AES_KEYEXP_256(manager->mgr, key, encrypting, decrypting);
        break;
    }
}

static IMB_HASH_ALG hash_of(uint32_t hash)
{
    switch (hash) {
    case 1:
        return IMB_AUTH_HMAC_SHA_1;
    case 256:
        return IMB_AUTH_HMAC_SHA_256;
    case 384:
        return IMB_AUTH_HMAC_SHA_384;
    default:
        return IMB_AUTH_HMAC_SHA_512;
    }
}

static void one_block(struct kf_manager *manager, uint32_t hash, const void *block, void *out)
{
    switch (hash) {
    case 1:
        IMB_SHA1_ONE_BLOCK(manager->mgr, block, out);
        break;
    case 256:
        IMB_SHA256_ONE_BLOCK(manager->mgr, block, out);
        break;
    case 384:
        IMB_SHA384_ONE_BLOCK(manager->mgr, block, out);
        break;
    default:
        IMB_SHA512_ONE_BLOCK(manager->mgr, block, out);
        break;
    }
}

/* The states of the inner and the outer hash (RFC 2104) behind the padded key, which is no longer than a block. */
void kf_hmac_key(struct kf_manager *manager, uint32_t hash, const uint8_t *key, size_t key_len, void *inner, void *outer)
{
    uint8_t block[IMB_SHA_512_BLOCK_SIZE];
    size_t i;

    memset(block, 0x36, sizeof block);
    for (i = 0; i < key_len; i++)
        block[i] ^= key[i];
    one_block(manager, hash, block, inner);
    for (i = 0; i < sizeof block; i++)
        block[i] ^= 0x36 ^ 0x5c;
    one_block(manager, hash, block, outer);
    imb_clear_mem(block, sizeof block);
}

/* Enciphers or deciphers each body and writes each tag. Of each packet the first `associated` octets in front of the body
 * are authenticated, too. */
void kf_gcm(struct kf_manager *manager, int decrypt, const struct gcm_key_data *key, size_t key_len, size_t associated,
            struct kf_packet *packets, size_t count)
{
    struct gcm_context_data context;
    aes_gcm_enc_dec_t run;
    size_t i;

    switch (key_len) {
    case IMB_KEY_128_BYTES:
        run = decrypt ? manager->mgr->gcm128_dec : manager->mgr->gcm128_enc;
        break;
    case IMB_KEY_192_BYTES:
        run = decrypt ? manager->mgr->gcm192_dec : manager->mgr->gcm192_enc;
        break;
    default:
        run = decrypt ? manager->mgr->gcm256_dec : manager->mgr->gcm256_enc;
        break;
    }
    for (i = 0; i < count; i++) {
        struct kf_packet *packet = &packets[i];
        uint8_t *body = packet->data + packet->body;

        run(key, &context, body, body, packet->len - packet->body, packet->iv, packet->data,
            associated < packet->body ? associated : packet->body, packet->tag, packet->icv_len);
    }
    imb_clear_mem(&context, sizeof context);
}

/* ChaCha20-Poly1305, likewise. Says how many were done. */
size_t kf_chacha20_poly1305(struct kf_manager *manager, int decrypt, const uint8_t *key, size_t associated,
                            struct kf_packet *packets, size_t count)
{
    size_t done = 0;
    size_t i;
    IMB_JOB *job;

    for (i = 0; i < count; i++) {
        struct kf_packet *packet = &packets[i];

        job = IMB_GET_NEXT_JOB(manager->mgr);
        job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
        job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
        job->cipher_direction = decrypt ? IMB_DIR_DECRYPT : IMB_DIR_ENCRYPT;
        job->chain_order = decrypt ? IMB_ORDER_HASH_CIPHER : IMB_ORDER_CIPHER_HASH;
        job->enc_keys = key;
        job->dec_keys = key;
        job->key_len_in_bytes = 32;
        job->iv = packet->iv;
        job->iv_len_in_bytes = 12;
        job->src = packet->data;
        job->dst = packet->data + packet->body;
        job->cipher_start_src_offset_in_bytes = packet->body;
        job->msg_len_to_cipher_in_bytes = packet->len - packet->body;
        job->hash_start_src_offset_in_bytes = packet->body;
        job->msg_len_to_hash_in_bytes = packet->len - packet->body;
        job->u.CHACHA20_POLY1305.aad = packet->data;
        job->u.CHACHA20_POLY1305.aad_len_in_bytes = associated < packet->body ? associated : packet->body;
        job->auth_tag_output = packet->tag;
        job->auth_tag_output_len_in_bytes = 16;
        job = IMB_SUBMIT_JOB(manager->mgr);
        done += job != NULL && job->status == IMB_STATUS_COMPLETED;
    }
    /* None is kept back, as this mode has no lanes; but it is the library that says so. */
    while ((job = IMB_FLUSH_JOB(manager->mgr)) != NULL)
        done += job->status == IMB_STATUS_COMPLETED;
    return done;
}

/* Enciphers or deciphers each body, of at most KF_BURST packets. Says how many were done. */
size_t kf_cipher(struct kf_manager *manager, int counter, int decrypt, const void *encrypting, const void *decrypting,
                 size_t key_len, struct kf_packet *packets, size_t count)
{
    const IMB_CIPHER_MODE mode = counter ? IMB_CIPHER_CNTR : IMB_CIPHER_CBC;
    const IMB_CIPHER_DIRECTION direction = decrypt ? IMB_DIR_DECRYPT : IMB_DIR_ENCRYPT;
    size_t i;

    for (i = 0; i < count; i++) {
        struct kf_packet *packet = &packets[i];
        IMB_JOB *job = &manager->jobs[i];

        job->cipher_mode = mode;
        job->cipher_direction = direction;
        job->hash_alg = IMB_AUTH_NULL;
        job->chain_order = IMB_ORDER_CIPHER_HASH;
        job->enc_keys = encrypting;
        job->dec_keys = decrypting;
        job->key_len_in_bytes = key_len;
        job->src = packet->data;
        job->dst = packet->data + packet->body;
        job->cipher_start_src_offset_in_bytes = packet->body;
        job->msg_len_to_cipher_in_bytes = packet->len - packet->body;
        job->iv = packet->iv;
        /* In counter mode twelve octets, and a block counter that begins with 1 (RFC 3686). */
        job->iv_len_in_bytes = counter ? 12 : 16;
    }
    return IMB_SUBMIT_CIPHER_BURST(manager->mgr, manager->jobs, (uint32_t)count, mode, direction,
                                   (IMB_KEY_SIZE_BYTES)key_len);
}

/* Writes the tag of each packet, of at most KF_BURST. Says how many were done. */
size_t kf_hmac(struct kf_manager *manager, uint32_t hash, const void *inner, const void *outer,
               struct kf_packet *packets, size_t count)
{
    const IMB_HASH_ALG algorithm = hash_of(hash);
    size_t i;

    for (i = 0; i < count; i++) {
        struct kf_packet *packet = &packets[i];
        IMB_JOB *job = &manager->jobs[i];

        job->cipher_mode = IMB_CIPHER_NULL;
        job->cipher_direction = IMB_DIR_ENCRYPT;
        job->hash_alg = algorithm;
        job->chain_order = IMB_ORDER_CIPHER_HASH;
        job->src = packet->data;
        job->hash_start_src_offset_in_bytes = 0;
        job->msg_len_to_hash_in_bytes = packet->len;
        job->auth_tag_output = packet->tag;
        job->auth_tag_output_len_in_bytes = packet->icv_len;
        job->u.HMAC._hashed_auth_key_xor_ipad = inner;
        job->u.HMAC._hashed_auth_key_xor_opad = outer;
    }
    return IMB_SUBMIT_HASH_BURST(manager->mgr, manager->jobs, (uint32_t)count, algorithm);
}
