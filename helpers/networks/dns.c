/*
 * Names: of members by what we know, all others by the host's name servers, or those of --dns.
 *
 * Members are seen by those that share a network with them. Who asks is told by the address, which
 * the kernel has checked (rootless/network/firewall.py), and the answer goes there. Of a question only its one name is
 * read, and nothing of an answer from outside but its number and that question.
 *
 * Source: RFC 1035.
 */
#include "networks.h"

enum { TYPE_A = 1, TYPE_PTR = 12, TYPE_AAAA = 28, TYPE_ANY = 255, CLASS_IN = 1 };
enum { FORMERR = 1, SERVFAIL = 2, NXDOMAIN = 3, NOTIMP = 4, REFUSED = 5 };
enum { QUERY = 1500, WAIT = 2000, ATTEMPTS = 3, MATCHES = 32, HEADER = 12 };

int question_fds[QUESTIONS];

struct asker { /* where an answer goes, and from which of our addresses */
	struct sockaddr_storage from;
	socklen_t size;
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	size_t control_size;
};

static struct question {
	bool used;
	int fd; /* of question_fds, or a socket of ours for a server that is a member */
	struct asker asker;
	int attempt, size, question_size;
	uint8_t number[2]; /* on its way; in `query` is the asker's */
	long long deadline;
	uint8_t query[QUERY];
} questions[QUESTIONS];

static int dns_fd;

/* -- what we know ------------------------------------------------------------------------------ */

static bool is_in(int member, int network)
{
	for (int i = 0; i < place_count; i++)
		if (places[i].network == network && places[i].member == member)
			return true;
	return false;
}

/* Fill the servers of --dns that a member may ask: in internal networks only those in there. */
static int own_servers(int member, struct server *found)
{
	const struct client *client = &clients[member];
	int count = 0;

	for (int i = 0; i < client->server_count; i++)
		if (has_way_out(member) || is_neighbour(member, &client->servers[i].address))
			found[count++] = client->servers[i];
	return count;
}

static bool has_servers(int member)
{
	struct server found[SERVERS];

	return clients[member].server_count ? own_servers(member, found) > 0 : has_way_out(member);
}

/* Read the name of a question as text; return where its type is, 0: it is malformed. */
static int read_name(const uint8_t *query, int size, char *name)
{
	int at = HEADER, used = 0;

	while (at < size && query[at]) {
		int length = query[at++];

		if (length > 63 || at + length >= size || used + length + 1 > 254)
			return 0;
		for (; length > 0; length--, at++)
			name[used++] = query[at] > ' ' && !strchr(".>", query[at]) ? (char)query[at] : 1;
		name[used++] = '.';
	}
	name[used ? used - 1 : 0] = 0;
	return at + 5 <= size ? at + 1 : 0;
}

/* Read an address of in-addr.arpa or ip6.arpa; its size is 0 if it is none. */
static struct address read_reverse(const char *name)
{
	struct address result = { 0 };
	int count = 0;

	if (strstr(name, ".in-addr.arpa")) {
		for (; count < 4 && *name >= '0' && *name <= '9'; count++) {
			int value = 0;

			for (; *name >= '0' && *name <= '9' && value < 256; name++)
				value = 10 * value + *name - '0';
			result.bytes[3 - count] = (uint8_t)value;
			if (value > 255 || *name++ != '.')
				return result;
		}
		result.size = count == 4 && equal(name, "in-addr.arpa") ? 4 : 0;
		return result;
	}
	for (; count < 32; count++, name += 2) {
		int c = lower(name[0]);
		int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

		if (value < 0 || name[1] != '.')
			return result;
		result.bytes[15 - count / 2] |= (uint8_t)(count % 2 ? value << 4 : value);
	}
	result.size = equal(name, "ip6.arpa") ? 16 : 0;
	return result;
}

static int put16(uint8_t *answer, int at, int value)
{
	answer[at] = (uint8_t)(value >> 8);
	answer[at + 1] = (uint8_t)value;
	return at + 2;
}

/* Begin a record: the name of the question, a type, no time to keep it; then its data. */
static int put_record(uint8_t *answer, int at, int type, int size)
{
	at = put16(answer, at, 0xc00c);
	at = put16(answer, at, type);
	at = put16(answer, at, CLASS_IN);
	at = put16(answer, put16(answer, at, 0), 0);
	return put16(answer, at, size);
}

static int put_name(uint8_t *answer, int at, const char *name)
{
	while (*name) {
		int length = 0;

		while (name[length] && name[length] != '.' && length < 63)
			length++;
		answer[at++] = (uint8_t)length;
		memcpy(answer + at, name, (size_t)length);
		at += length;
		name += length + (name[length] == '.');
	}
	answer[at++] = 0;
	return at;
}

/* Begin an answer: the header and the question, up to `end`, of a query. */
static int begin_answer(uint8_t *answer, const uint8_t *query, int end, int code)
{
	memcpy(answer, query, (size_t)end);
	answer[2] = (uint8_t)(0x84 | (query[2] & 1)); /* an answer, by who knows */
	answer[3] = (uint8_t)(0x80 | code);
	memset(answer + 6, 0, 6);
	if (end == HEADER)
		put16(answer, 4, 0);
	return end;
}

static int answer_reverse(const struct address *address, int member, const uint8_t *query, int end,
			  uint8_t *answer)
{
	int place = place_of(address), size;
	char *name;

	if (place < 0 || !is_in(member, places[place].network))
		return 0;
	name = places[place].names;
	end = begin_answer(answer, query, end, 0);
	put16(answer, 6, 1);
	size = put_name(answer, end + 12, name) - end - 12;
	put_record(answer, end, TYPE_PTR, size);
	return end + 12 + size;
}

/* Whether a member finds a place by a name, by its own links only or by what the place is called. */
static bool finds(int member, int place, const char *name, bool by_link)
{
	return places[place].network >= 0 && is_in(member, places[place].network) &&
	       (by_link ? is_linked(member, &places[place], name) : has_name(&places[place], name));
}

/* Answer a query by what we know; 0: it is for a name server, < 0: it is none. */
int dns_local(const uint8_t *query, int size, const struct address *from, uint8_t *answer, int room)
{
	static unsigned turn;
	char name[256];
	int found[MATCHES], count = 0, place, member, type, class, end;
	bool known = false, by_link = false;

	if (size < HEADER || (query[2] & 0x80))
		return -1;
	if (query[2] & 0x78)
		return begin_answer(answer, query, HEADER, NOTIMP);
	end = query[4] == 0 && query[5] == 1 ? read_name(query, size, name) : 0;
	if (!end)
		return begin_answer(answer, query, HEADER, FORMERR);
	type = query[end] << 8 | query[end + 1];
	class = query[end + 2] << 8 | query[end + 3];
	end += 4;
	place = place_of(from);
	if (place < 0 || class != CLASS_IN || end + 600 > room)
		return begin_answer(answer, query, end, REFUSED);
	member = places[place].member;
	if (type == TYPE_PTR) {
		struct address address = read_reverse(name);
		int done = address.size ? answer_reverse(&address, member, query, end, answer) : 0;

		if (done)
			return done;
	}
	for (int i = 0; i < place_count && !by_link; i++)
		by_link = finds(member, i, name, true); /* before those who are called so, as Docker's */
	for (int i = 0; i < place_count; i++) {
		int family = type == TYPE_AAAA;

		if (!finds(member, i, name, by_link))
			continue;
		known = true;
		if ((type == TYPE_A || type == TYPE_AAAA) && places[i].addresses[family].size &&
		    count < MATCHES)
			found[count++] = i;
	}
	if (known) {
		int bytes = type == TYPE_A ? 4 : 16, at = begin_answer(answer, query, end, 0), put = 0;

		for (turn++; put < count && at + 12 + bytes <= room; put++) {
			const struct place *one = &places[found[(turn + (unsigned)put) % (unsigned)count]];

			at = put_record(answer, at, type, bytes);
			memcpy(answer + at, one->addresses[type == TYPE_AAAA].bytes, (size_t)bytes);
			at += bytes;
		}
		put16(answer, 6, put);
		return at;
	}
	if (!has_servers(member))
		return begin_answer(answer, query, end, NXDOMAIN);
	for (const char *at = name; *at != '.'; at++)
		if (!*at && (type == TYPE_A || type == TYPE_AAAA)) /* no dot: nobody else's name */
			return begin_answer(answer, query, end, NXDOMAIN);
		else if (!*at)
			break;
	return 0;
}

/* -- who else knows ---------------------------------------------------------------------------- */

/* Read an address as text; return whether it is one. */
static bool read_text(const char *text, int size, struct address *address)
{
	int at = 0, count = 0, gap = -1, groups[8];

	memset(address, 0, sizeof(*address));
	for (int i = 0; i < size; i++)
		if (text[i] == ':')
			goto six;
	for (count = 0; count < 4; count++) {
		int value = 0, digits = 0;

		for (; at < size && text[at] >= '0' && text[at] <= '9' && digits < 3; at++, digits++)
			value = 10 * value + text[at] - '0';
		if (!digits || value > 255 || (count < 3 ? at == size || text[at++] != '.' : at != size))
			return false;
		address->bytes[count] = (uint8_t)value;
	}
	address->size = 4;
	return true;
six:
	while (at < size && count < 8) {
		int value = 0, digits = 0;

		if (text[at] == ':' && at + 1 < size && text[at + 1] == ':' && gap < 0) {
			gap = count;
			at += 2;
			continue;
		}
		if (text[at] == ':' && count && gap != count)
			at++;
		for (; at < size && digits < 4; at++, digits++) {
			int c = lower(text[at]);
			int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

			if (digit < 0)
				break;
			value = 16 * value + digit;
		}
		if (!digits)
			return false;
		groups[count++] = value;
	}
	if (at != size || (gap < 0) != (count == 8))
		return false;
	for (int i = 0; i < count; i++)
		put16(address->bytes, 2 * (gap < 0 || i < gap ? i : i + 8 - count), groups[i]);
	address->size = 16;
	return true;
}

static struct server host_servers[SERVERS];
static int host_count;

static void read_server(const char *text, int size)
{
	struct server *server = &host_servers[host_count];
	const char *zone = memchr(text, '%', (size_t)size);

	*server = (struct server){ 0 };
	if (!read_text(text, zone ? (int)(zone - text) : size, &server->address))
		return;
	if (zone) {
		struct { char name[16]; int index; char rest[20]; } request = { 0 }; /* struct ifreq */

		for (int i = 0; zone + 1 + i < text + size && i < 15; i++)
			request.name[i] = zone[1 + i];
		if (syscall(SYS_ioctl, question_fds[0], 0x8933 /* SIOCGIFINDEX */, &request) == 0)
			server->scope = (uint32_t)request.index;
	}
	host_count++;
}

/* Find the name servers in a resolv.conf: a text of this size, with room for a NUL behind it. */
void read_servers(char *text, size_t size)
{
	text[size] = 0;
	host_count = 0;
	for (char *at = text; *at && host_count < SERVERS; at++) {
		static const char keyword[] = "nameserver";
		char *line = at;

		while (*at && *at != '\n')
			at++;
		if (at - line > 10 && memcmp(line, keyword, 10) == 0 && (line[10] == ' ' || line[10] == '\t')) {
			int begin = 10, end;

			while (line[begin] == ' ' || line[begin] == '\t')
				begin++;
			for (end = begin; line + end < at && line[end] > ' '; end++)
				;
			read_server(line + begin, end - begin);
		}
		if (!*at)
			break;
	}
	if (host_count == 0) /* resolv.conf(5) */
		host_servers[host_count++] = (struct server){ { 4, { 127, 0, 0, 1 } }, 0, false };
}

static void read_host(void)
{
	static char text[8192];
	ssize_t size = read_resolv_conf(text, sizeof(text) - 1);

	if (size >= 0)
		read_servers(text, (size_t)size);
	else if (host_count == 0)
		read_servers(text, 0);
}

/* Return the server that is to be asked for a member at this attempt; size 0: no more. */
struct server dns_server(const struct address *from, int attempt)
{
	int place = place_of(from), member, count;
	struct server found[SERVERS];

	if (place < 0 || attempt >= ATTEMPTS)
		return (struct server){ 0 };
	member = places[place].member;
	if (!clients[member].server_count && has_way_out(member)) {
		read_host();
		return host_servers[attempt % host_count];
	}
	count = own_servers(member, found);
	return count ? found[attempt % count] : (struct server){ 0 };
}

static void answer(const struct asker *asker, const uint8_t *data, int size)
{
	struct iovec part = { (void *)data, (size_t)size };
	struct msghdr message = { .msg_name = (void *)&asker->from, .msg_namelen = asker->size,
				  .msg_iov = &part, .msg_iovlen = 1,
				  .msg_control = asker->control_size ? (void *)asker->control : NULL,
				  .msg_controllen = asker->control_size };

	sendmsg(dns_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void close_fd(struct question *question)
{
	int number = (int)(question - questions);

	if (question->fd != question_fds[number])
		close(question->fd);
	else
		disconnect(question->fd);
	question->used = false;
}

/* Tell an asker that nobody answers; `end`: of the question in the query. */
static void refuse(const struct asker *asker, const uint8_t *query, int end)
{
	uint8_t said[HEADER + 256 + 4];

	answer(asker, said, begin_answer(said, query, end, SERVFAIL));
}

/* Ask the next server; the number of the question on its way is another one each time. */
static void ask(struct question *question)
{
	int number = (int)(question - questions);
	struct address from = address_of(&question->asker.from);
	uint8_t query[QUERY];

	for (;; question->attempt++) {
		struct server server = dns_server(&from, question->attempt);
		struct sockaddr_storage to;
		socklen_t size;

		if (!server.address.size) {
			refuse(&question->asker, question->query, question->question_size);
			question->used = false;
			return;
		}
		size = socket_address(&server.address, 53, server.scope, &to);
		question->fd = server.inside ? make_socket(to.ss_family, SOCK_DGRAM) : question_fds[number];
		if (!server.inside)
			size = host_address(question->fd, &server, &to);
		if (question->fd < 0)
			continue;
		watch(question->fd, QUESTION, number, EPOLLIN);
		memcpy(query, question->query, (size_t)question->size);
		if (getrandom(question->number, 2, 0) == 2 &&
		    connect(question->fd, (struct sockaddr *)&to, size) == 0) {
			memcpy(query, question->number, 2);
			if (send(question->fd, query, (size_t)question->size, MSG_NOSIGNAL) > 0) {
				question->deadline = now() + WAIT;
				return;
			}
		}
		if (server.inside)
			close(question->fd);
		else
			disconnect(question->fd);
	}
}

void dns_reply(int number)
{
	struct question *question = &questions[number];
	uint8_t *said = (uint8_t *)spare;
	ssize_t size;

	if (!question->used) {
		recv(question_fds[number], spare, sizeof(spare), MSG_DONTWAIT);
		return;
	}
	size = recv(question->fd, spare, sizeof(spare), MSG_DONTWAIT);
	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (size < 0) { /* nobody listens there */
		close_fd(question);
		question->used = true;
		question->attempt++;
		ask(question);
		return;
	}
	if (size < question->question_size || !(said[2] & 0x80) || memcmp(said, question->number, 2) ||
	    memcmp(said + HEADER, question->query + HEADER, (size_t)question->question_size - HEADER))
		return; /* not to what we asked */
	memcpy(said, question->query, 2);
	answer(&question->asker, said, (int)size);
	close_fd(question);
}

void dns_late(void)
{
	for (int i = 0; i < QUESTIONS; i++)
		if (questions[i].used && now() > questions[i].deadline) {
			close_fd(&questions[i]);
			questions[i].used = true;
			questions[i].attempt++;
			ask(&questions[i]);
		}
}

static void forward(const struct asker *asker, const uint8_t *query, int size)
{
	struct address from = address_of(&asker->from), other;
	struct question *place = NULL;
	char name[256];
	int end = read_name(query, size, name) + 4, his = 0, free = 0;

	for (int i = 0; i < QUESTIONS; i++) {
		if (questions[i].used) {
			other = address_of(&questions[i].asker.from);
			his += of_one_member(&other, &from);
		} else if (question_fds[i] >= 0) {
			place = &questions[i];
			free++;
		}
	}
	if (!may_take(his, free) || size > QUERY) {
		refuse(asker, query, end);
		return;
	}
	place->used = true;
	place->asker = *asker;
	place->attempt = 0;
	place->size = size;
	place->question_size = end;
	memcpy(place->query, query, (size_t)size);
	ask(place);
}

void dns_datagram(void)
{
	static uint8_t query[4096], said[4096];
	struct asker asker = { .size = sizeof(asker.from) };
	struct iovec part = { query, sizeof(query) };
	struct msghdr message = { .msg_name = &asker.from, .msg_namelen = asker.size,
				  .msg_iov = &part, .msg_iovlen = 1,
				  .msg_control = asker.control,
				  .msg_controllen = sizeof(asker.control) };
	ssize_t size = recvmsg(dns_fd, &message, MSG_DONTWAIT);
	struct address from;
	int answer_size;

	if (size < 0)
		return;
	asker.size = message.msg_namelen;
	asker.control_size = message.msg_controllen;
	from = address_of(&asker.from);
	answer_size = dns_local(query, (int)size, &from, said, 512 + HEADER + 600);
	if (answer_size > 512)
		said[2] |= 2; /* truncated: ask by TCP */
	if (answer_size > 0)
		answer(&asker, said, answer_size > 512 ? 512 : answer_size);
	else if (answer_size == 0)
		forward(&asker, query, (int)size);
}

/* Return a socket on port 53 of all bridges. */
int dns_socket(int kind)
{
	struct sockaddr_in6 any6 = { .sin6_family = AF_INET6, .sin6_port = htobe16(53) };
	struct sockaddr_in any4 = { .sin_family = AF_INET, .sin_port = htobe16(53) };
	int fd = make_socket(AF_INET6, kind), off = 0, on = 1;

	if (fd >= 0) {
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
		setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
		if (bind(fd, (struct sockaddr *)&any6, sizeof(any6)) == 0)
			return fd;
		close(fd);
	}
	fd = make_socket(AF_INET, kind);
	if (fd >= 0) {
		setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
		if (bind(fd, (struct sockaddr *)&any4, sizeof(any4)) == 0)
			return fd;
		close(fd);
	}
	return -1;
}

/* Fill the address of a server for a socket of the host's network, which may be an IPv6 one. */
socklen_t host_address(int fd, const struct server *server, struct sockaddr_storage *to)
{
	struct address address = server->address;
	int domain = AF_INET;
	socklen_t size = sizeof(domain);

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size);
	if (domain == AF_INET6 && address.size == 4) {
		memset(&address, 0, sizeof(address));
		address.size = 16;
		address.bytes[10] = address.bytes[11] = 0xff;
		memcpy(address.bytes + 12, server->address.bytes, 4);
	}
	return socket_address(&address, 53, server->scope, to);
}

void begin_dns(void)
{
	dns_fd = dns_socket(SOCK_DGRAM);
	if (dns_fd >= 0)
		watch(dns_fd, DNS, 0, EPOLLIN);
}
