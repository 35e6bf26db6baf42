/* Interfaces in the hub. Members and commands make them; this program takes them away. */
#include "networks.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

static int netlink = -1; /* opened before the walls, which allow no other */

const char *begin_links(void)
{
	netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	return netlink < 0 ? "socket(AF_NETLINK)" : NULL;
}

/* Take an interface away: a bridge whose last member has left, with its addresses and routes; or the
 * outer end of a member's pair, whose other end others in the same namespace would keep. */
void delete_link(const char *name)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg info;
		struct rtattr attribute;
		char name[16];
	} request = {
		.header = { sizeof(request), RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0 },
		.attribute = { sizeof(struct rtattr) + 16, IFLA_IFNAME },
	};

	snprintf(request.name, sizeof(request.name), "%s", name);
	if (send(netlink, &request, sizeof(request), 0) > 0)
		recv(netlink, spare, sizeof(spare), 0);
}
