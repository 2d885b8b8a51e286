// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* A network card with the kernel's "crypto offload", for the guest of tests/interop/guest_member.py: it opens what comes by inbound ESP
 * states with AES-GCM and a key of 128 bits, as real ones do, and wants no others. There is no such card in qemu, and Debian's
 * kernels lack netdevsim, which would accept the states only.
 *
 *     cable <-> eth0 <-> nic0 (decrypts, and tells the kernel by which state) <-> IP
 */

#include <crypto/aead.h>
#include <linux/etherdevice.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <linux/scatterlist.h>
#include <linux/version.h>
#include <net/gro_cells.h>
#include <net/ip.h>
#include <net/xfrm.h>

#define TRANSFORM "rfc4106(gcm(aes))"
#define ICV 16
#define IV 8

/* In /sys/module/guest_nic/parameters: what is installed, refused, and done. */
static unsigned int states, refused, opened, forged;
module_param(states, uint, 0444);
module_param(refused, uint, 0444);
module_param(opened, uint, 0444);
module_param(forged, uint, 0444);

static struct net_device *cable, *nic;
static struct gro_cells cells;

struct sa {
	struct list_head list;
	struct xfrm_state *state;
	struct crypto_aead *aead;
};

static LIST_HEAD(table);
static DEFINE_SPINLOCK(lock);

static int add(struct xfrm_state *x)
{
	const struct xfrm_algo_aead *key = x->aead;
	struct sa *sa;
	int err;

	if (x->xso.dir != XFRM_DEV_OFFLOAD_IN || x->id.proto != IPPROTO_ESP || !key ||
	    strcmp(key->alg_name, TRANSFORM) || key->alg_key_len != 160 || key->alg_icv_len != 8 * ICV) {
		refused++;
		return -EINVAL;
	}
	sa = kzalloc(sizeof(*sa), GFP_KERNEL);
	if (!sa)
		return -ENOMEM;
	sa->state = x;
	sa->aead = crypto_alloc_aead(TRANSFORM, 0, CRYPTO_ALG_ASYNC);
	if (IS_ERR(sa->aead)) {
		err = PTR_ERR(sa->aead);
		goto free;
	}
	err = crypto_aead_setkey(sa->aead, key->alg_key, key->alg_key_len / 8) ?: crypto_aead_setauthsize(sa->aead, ICV);
	if (err)
		goto free_aead;
	x->xso.offload_handle = (unsigned long)sa;
	spin_lock_bh(&lock);
	list_add(&sa->list, &table);
	states++;
	spin_unlock_bh(&lock);
	return 0;

free_aead:
	crypto_free_aead(sa->aead);
free:
	kfree(sa);
	return err;
}

/* No packet uses the state from now on. */
static void delete(struct xfrm_state *x)
{
	spin_lock_bh(&lock);
	list_del(&((struct sa *)x->xso.offload_handle)->list);
	states--;
	spin_unlock_bh(&lock);
}

static void release(struct xfrm_state *x)
{
	struct sa *sa = (struct sa *)x->xso.offload_handle;

	crypto_free_aead(sa->aead);
	kfree(sa);
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
static int dev_add(struct net_device *dev, struct xfrm_state *x, struct netlink_ext_ack *why)
{
	return add(x);
}

static void dev_delete(struct net_device *dev, struct xfrm_state *x)
{
	delete(x);
}

static void dev_release(struct net_device *dev, struct xfrm_state *x)
{
	release(x);
}
#else
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
static int dev_add(struct xfrm_state *x, struct netlink_ext_ack *why)
{
	return add(x);
}
#else
#define dev_add add
#endif
#define dev_delete delete
#define dev_release release
#endif

static const struct xfrmdev_ops esp = {
	.xdo_dev_state_add = dev_add,
	.xdo_dev_state_delete = dev_delete,
	.xdo_dev_state_free = dev_release,
};

/* Where ESP begins in a linear packet, where it goes, and its octets; none where there is no ESP. */
static unsigned int find(struct sk_buff *skb, unsigned int *at, xfrm_address_t *to, u16 *family)
{
	const struct ipv6hdr *v6 = ipv6_hdr(skb);
	const struct iphdr *v4 = ip_hdr(skb);
	unsigned int end;

	memset(to, 0, sizeof(*to));
	if (skb->protocol == htons(ETH_P_IP) && skb->len >= sizeof(*v4) && v4->protocol == IPPROTO_ESP && !ip_is_fragment(v4)) {
		*at = v4->ihl * 4;
		end = ntohs(v4->tot_len);
		to->a4 = v4->daddr;
		*family = AF_INET;
	} else if (skb->protocol == htons(ETH_P_IPV6) && skb->len >= sizeof(*v6) && v6->nexthdr == IPPROTO_ESP) {
		*at = sizeof(*v6);
		end = sizeof(*v6) + ntohs(v6->payload_len);
		to->in6 = v6->daddr;
		*family = AF_INET6;
	} else {
		return 0;
	}
	return end <= skb->len && end >= *at + sizeof(struct ip_esp_hdr) + IV + ICV ? end - *at : 0;
}

static struct sa *look_up(__be32 spi, const xfrm_address_t *to, u16 family)
{
	struct sa *sa;

	list_for_each_entry(sa, &table, list) {
		const struct xfrm_state *x = sa->state;

		if (x->id.spi == spi && x->props.family == family && xfrm_addr_equal(&x->id.daddr, to, family))
			return sa;
	}
	return NULL;
}

/* In its place. */
static int decrypt(struct sa *sa, struct ip_esp_hdr *header, unsigned int length)
{
	struct aead_request *request = aead_request_alloc(sa->aead, GFP_ATOMIC);
	struct scatterlist sg;
	u8 iv[IV];
	int err;

	if (!request)
		return -ENOMEM;
	memcpy(iv, header->enc_data, IV);
	sg_init_one(&sg, header, length);
	aead_request_set_callback(request, 0, NULL, NULL);
	aead_request_set_ad(request, sizeof(*header) + IV);
	aead_request_set_crypt(request, &sg, &sg, length - sizeof(*header) - IV, iv);
	err = crypto_aead_decrypt(request);
	aead_request_free(request);
	return err;
}

static void open(struct sk_buff *skb)
{
	struct ip_esp_hdr *header;
	unsigned int at, length;
	struct xfrm_offload *xo;
	struct sec_path *path;
	xfrm_address_t to;
	struct sa *sa;
	u16 family;
	int err;

	if (skb_linearize_cow(skb))
		return;
	length = find(skb, &at, &to, &family);
	if (!length)
		return;
	header = (struct ip_esp_hdr *)(skb->data + at);
	spin_lock(&lock);
	sa = look_up(header->spi, &to, family);
	path = sa ? secpath_set(skb) : NULL;
	if (path) {
		err = decrypt(sa, header, length);
		*(err ? &forged : &opened) += 1;
		xfrm_state_hold(sa->state);
		path->xvec[path->len++] = sa->state;
		path->olen++;
		xo = xfrm_offload(skb);
		xo->flags = CRYPTO_DONE;
		xo->status = err ? CRYPTO_TUNNEL_ESP_AUTH_FAILED : CRYPTO_SUCCESS;
	}
	spin_unlock(&lock);
}

static rx_handler_result_t receive(struct sk_buff **of)
{
	struct sk_buff *skb = skb_share_check(*of, GFP_ATOMIC);

	if (skb) {
		skb->dev = nic;
		open(skb);
		gro_cells_receive(&cells, skb);
	}
	return RX_HANDLER_CONSUMED;
}

static netdev_tx_t transmit(struct sk_buff *skb, struct net_device *dev)
{
	skb->dev = cable;
	dev_queue_xmit(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops ops = {
	.ndo_start_xmit = transmit,
};

static int __init begin(void)
{
	int err;

	cable = dev_get_by_name(&init_net, "eth0");
	if (!cable)
		return -ENODEV;
	nic = alloc_netdev(0, "nic0", NET_NAME_USER, ether_setup);
	if (!nic)
		return -ENOMEM;
	eth_hw_addr_inherit(nic, cable);
	nic->netdev_ops = &ops;
	nic->xfrmdev_ops = &esp;
	nic->features |= NETIF_F_HW_ESP;
	err = gro_cells_init(&cells, nic);
	if (err)
		return err;
	rtnl_lock();
	err = register_netdevice(nic) ?: netdev_rx_handler_register(cable, receive, NULL) ?: dev_set_allmulti(cable, 1);
	/* The kernel would open the packets there already. */
	cable->wanted_features &= ~NETIF_F_GRO;
	netdev_update_features(cable);
	rtnl_unlock();
	return err;
}

module_init(begin);
MODULE_DESCRIPTION("A network card that opens ESP, for a guest that does nothing else");
MODULE_LICENSE("GPL and additional rights");
